"""A request for a certificate and a certificate of an authority, both whole: fields that hold some are parsed.

`STUB` is the request as fields hold it that take no PEM.
"""

import base64

REQUEST = base64.b64encode(b"""-----BEGIN CERTIFICATE REQUEST-----
MH8wMwIBADAAMCowBQYDK2VwAyEAypN4CAhwuHDz7dWsRrvhWkezn4mDXdyg3DRa
m5FygiygADAFBgMrZXADQQCgmyw41JJJz3ITy5Xz32utFC2pAgcczSEf/epy9gdD
iwK3kGWr2Aj67qqJVCOlOZcgbnD6S2g2F6HMsiCQPJAJ
-----END CERTIFICATE REQUEST-----
""").decode()
STUB = "".join(base64.b64decode(REQUEST).decode().splitlines()[1:-1])
AUTHORITY = """-----BEGIN CERTIFICATE-----
MIHCMHagAwIBAgIBATAFBgMrZXAwADAgFw0yNjAxMDEwMDAwMDBaGA8yMDUzMDUx
ODAwMDAwMFowADAqMAUGAytlcAMhADHaNSudeZY1qVoqWixcjfQdTKCibJvYwuUz
1XfgDWmhoxMwETAPBgNVHRMBAf8EBTADAQH/MAUGAytlcANBACsWc/LryUv/H6V/
sNXKYGkNmXg6J0cHvqUId5fMDwlHDy/Op920Di659BcTBGeLdSrzEgQOsxUlcBNC
stTW7AQ=
-----END CERTIFICATE-----
"""
