"""A run of the simulation as a test: `simulation("failures", seed=7)`."""

from pathlib import Path

from rayplane.control_plane.simulation import Setup, SimulationResult, load_scenario, read_file, simulate


class SimulationFailed(AssertionError):
    """A promise was broken in a run; the text is its story, and the command that repeats it."""


def simulation(scenario: str | Path, *, seed: int = 1, load: str | Path | None = None) -> SimulationResult:
    """Run a whole cluster in virtual time through a scenario, by name or of a file; the same seed is the same run.

    `load` is a file with operators (`@rayplane.reconcile`) and INVARIANTS, as of `rayplane simulate --load`.
    Raises SimulationFailed.
    """
    setup = Setup(load=read_file(str(load)) if load is not None else None)
    result = simulate(load_scenario(Path(scenario)), seed, setup=setup)
    if not result.ok:
        raise SimulationFailed(str(result))
    return result
