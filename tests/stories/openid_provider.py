"""An OpenID provider for stories: oidc-provider-mock of PyPI, whose ID tokens name their key as those of
directories do, but for those of the client "nameless".

Usage: openid_provider.py PORT SUBJECT-AND-CLAIMS-AS-JSON...
"""

import json
import os
import sys
import warnings

warnings.simplefilter("ignore")
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

import oidc_provider_mock  # noqa: E402
from oidc_provider_mock import _app as provider  # noqa: E402

without_name = provider.OpenIDCode.get_jwt_config


def with_name(self, grant, client=None):
    config = without_name(self, grant, client)
    if client is not None and client.get_client_id() == "nameless":
        return config
    return {**config, "kid": config["key"]["kid"]}


provider.OpenIDCode.get_jwt_config = with_name

users = []
for text in sys.argv[2:]:
    claims = json.loads(text)
    users.append(oidc_provider_mock.User(sub=claims.pop("sub"), claims=claims))
# No reloader: it would serve in a process of its own, which outlives this one.
oidc_provider_mock.app(user_claims=users).run(host="127.0.0.1", port=int(sys.argv[1]), use_reloader=False)
