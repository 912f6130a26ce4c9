"""The checks that need no test run: name -> arguments of the environment's interpreter.

scripts/test runs all of them, pre-commit each as a hook of its own. Read by any Python that the machine has.
"""

CHECKS = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "mypy": ["-m", "mypy"],
    "import contracts": ["-c", "from importlinter.cli import lint_imports_command as run; run(['--no-logo'])"],
    "dead code": ["-m", "vulture"],
    "shape of the tree": ["-m", "scripts.tidy"],
}
