"""Keeps the actors that exist equal to the topology that is wanted.

Owns the stored topology (desired state), what is seen of hosts and members (observed state), the plan that leads from
one to the other, and the service that changes the desired state. Does not own actors (a `Host` starts and stops them)
nor what they run.

`plan` is pure: desired and observed state in, actions out. `reconciler` observes, plans and carries out, over and
over; it alone holds the whole. Each action may be carried out again, and all that a change has reached so far stands
in etcd (the stored topology with each actor's phase, and etcd's own list of members): a supervisor that takes over,
in the midst of a member's replacement too, goes on from there.

Concurrency: one task reconciles, and starts and stops of actors are tasks of their own, one for each name, so that one
that hangs holds up no other. Calls of the service change the stored topology and wait for what becomes of it.
"""
