"""The checks that need no test run: name -> arguments of the environment's interpreter; and how tests share the cores.

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

# For pytest. Tests of one file stay together: they share clusters. Three on two cores: one of them mostly waits for a
# cluster (`tests/workers.py`). More would be more clusters than a laptop has memory for.
TOGETHER = ["-n", "3", "--dist", "loadfile"]
