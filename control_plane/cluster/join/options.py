"""Options of `rayplane join` by which it comes to trust a cluster; errors name them. Pure."""

TOKEN, HASH, UNSAFE = "--token", "--discovery-token-ca-cert-hash", "--discovery-token-unsafe-skip-ca-verification"
