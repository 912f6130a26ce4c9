"""The version of rayplane that runs here: the whole package says it, which imports its parts and not the other way."""

from importlib import import_module

VERSION: str = import_module("rayplane").__version__
