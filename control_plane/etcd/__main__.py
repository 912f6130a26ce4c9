"""`python -m control_plane.etcd`: one member as a process of its own, without Ray. See `standalone`."""

from control_plane.etcd.standalone import main

if __name__ == "__main__":
    main()
