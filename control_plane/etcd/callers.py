"""Callers of a member's methods: clients on one port, the other members on the other."""

from rayplane.control_plane.identities import API_SERVERS, MASTERS, MEMBERS
from rayplane.control_plane.rpc import Callers

#: API servers, the supervisor and administrators.
CLIENTS = Callers.of(groups=(API_SERVERS, MASTERS))
PEERS = Callers.of(groups=(MEMBERS,))

#: What clients may call, by service.
CLIENT_METHODS = {
    "KV": "Range Put DeleteRange Txn Compact",
    "Watch": "Watch",
    "Lease": "LeaseGrant LeaseRevoke LeaseKeepAlive LeaseTimeToLive LeaseLeases",
    "Cluster": "MemberAdd MemberRemove MemberUpdate MemberList MemberPromote",
    "Maintenance": "Alarm Status Defragment Hash HashKV Snapshot MoveLeader Downgrade",
    "Auth": "AuthEnable AuthDisable AuthStatus Authenticate UserAdd UserGet UserList UserDelete UserChangePassword"
    " UserGrantRole UserRevokeRole RoleAdd RoleGet RoleList RoleDelete RoleGrantPermission RoleRevokePermission",
    "Lock": "Lock Unlock",
    "Election": "Campaign Proclaim Leader Observe Resign",
    "Standings": "Ask",
    "Convoys": "Txns",
}
#: What members may call of each other.
PEER_METHODS = "Send Snapshot Renew Remaining Members Claim Promote ProposeChange HashKV"
