"""Users and groups known by name: certificates and tokens carry them, roles and policies of services ask for them.

As in Kubernetes where Kubernetes has them; those of etcd members, API servers and node hosts are this project's own.
"""

#: Administrators, who may do everything.
MASTERS = "system:masters"
API_SERVERS = "system:apiservers"
MEMBERS = "system:etcd-members"
NODES = "system:nodes"
#: Who runs nodes of this project: beside the kubelet the service proxy, the ingress and volume replicas.
NODE_HOSTS = "rayplane:node-hosts"

#: Below it nodes that joined have names of their own for TLS: no other server is called so.
NODE_DOMAIN = "nodes.rayplane.internal"

ADMINISTRATOR = "kubernetes-admin"
API_SERVER = "system:apiserver"
#: As whom API servers call those of aggregated APIs; it is nobody to the cluster's own.
FRONT_PROXY = "front-proxy-client"
SCHEDULER = "system:kube-scheduler"
CONTROLLER_MANAGER = "system:kube-controller-manager"
#: As whom floods of requests ask: an ordinary user, who may list pods and waits in turn with all others.
FLOODER = "rayplane:flood"
#: A service account's user is this, its namespace, a colon and its name.
SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
#: The group of all service accounts; with a colon and a namespace behind it, of those of the namespace.
SERVICE_ACCOUNTS = "system:serviceaccounts"
#: The extra field of a service account that names the node where its token is.
NODE_OF_TOKEN = "authentication.kubernetes.io/node-name"
