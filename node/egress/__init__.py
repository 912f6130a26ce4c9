"""The way out of the cluster: connections of isolated pods to addresses that are nobody's in it.

Owns which addresses those are (`networks`, pure), the packet rules that hand them to this host (`packet_rules`, pure)
and the relay that carries them in this machine's own network (`relay`): TCP as streams, UDP as flows, as many as are
allowed. Does not own whether a pod may leave (`node.policy`), which packet rules have judged before a connection comes
here. Off unless asked for; never to the machine itself and what it alone may ask, unless that is asked for too.
"""
