"""`python -m rayplane.control_plane.etcd`: one member as a process of its own, without Ray. See `standalone`."""

from rayplane.control_plane.etcd.standalone import main

if __name__ == "__main__":
    main()
