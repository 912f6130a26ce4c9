"""`python -m rayplane.control_plane.apiserver`: one API server as a process of its own. See `standalone`."""

from rayplane.control_plane.apiserver.standalone import main

if __name__ == "__main__":
    main()
