"""The name by which pytest is told to load rayplane's fixtures: `pytest_plugins = ["rayplane.testing.plugin"]`."""

pytest_plugins = ["rayplane.control_plane.testing.plugin"]
