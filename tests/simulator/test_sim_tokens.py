"""The token endpoint: refresh and assertion grants, expiry, revocation (gsc-api.md 6)."""

import json
import time
import urllib.parse

import pytest
from gscwire import SITE, Client

from gscthreads.simulator.options import Options
from gscthreads.simulator.tokens import AUDIENCE, JWT_GRANT, READ, WRITE, Tokens


def post(client, **form):
    return client.send("POST", "/token", urllib.parse.urlencode(form),
                       Content_Type="application/x-www-form-urlencoded")


def refresh(client, info, **more):
    return post(client, grant_type="refresh_token", client_id=info["client_id"],
                client_secret=info["client_secret"], refresh_token=info["refresh_token"], **more)


def test_refresh(start):
    sim, client = start()
    info = sim.credentials("somebody@example.com")
    assert info["type"] == "authorized_user" and info["token_uri"] == f"{sim.url}/token"
    answer = refresh(client, info)
    assert answer.status == 200 and set(answer.json) == {"access_token", "expires_in", "scope", "token_type"}
    assert (answer.json["expires_in"], answer.json["scope"], answer.json["token_type"]) == (3599, READ, "Bearer")
    fresh = Client(sim, answer.json["access_token"])
    assert fresh.query().status == 200 and sim.log[0].user == "somebody@example.com"
    fresh.close()
    assert sim.stats()["token_posts"] == 1


def test_refusals(start):
    sim, client = start()
    info = sim.credentials()
    wrong = refresh(client, {**info, "client_secret": "x"})
    assert (wrong.status, wrong.json["error"]) == (401, "invalid_client")
    unknown = refresh(client, {**info, "refresh_token": "x"})
    assert unknown.status == 400
    assert unknown.json == {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
    assert refresh(client, info, scope=READ).status == 200
    assert refresh(client, info, scope=WRITE).json["error"] == "invalid_scope"
    assert post(client, grant_type="password").json["error"] == "unsupported_grant_type"


def test_revocation(start):
    sim, client = start()
    mine, hers = sim.credentials(), sim.credentials("her@example.com")
    assert client.query().status == 200
    sim.revoke("owner@example.com", refresh=False)
    assert client.query().status == 401
    assert refresh(client, mine).status == 200
    assert sim.revoke("owner@example.com") == 2
    assert refresh(client, mine).json["error"] == "invalid_grant"
    assert refresh(client, hers).status == 200


def test_tokens_expire():
    now = [0.0]
    tokens = Tokens(Options(token_lifetime=100), lambda: "", lambda: now[0])
    token = tokens.issue("u")
    now[0] = 99.9
    grant = tokens.check(token)
    assert grant is not None and grant.user == "u" and tokens.users() == ["u"]
    now[0] = 100.0
    assert tokens.check(token) is None and tokens.users() == [] and tokens.check("x") is None


def assertion(info, wrong=None, **changes):
    jwt = pytest.importorskip("google.auth.jwt")
    crypt = pytest.importorskip("google.auth.crypt")
    now = int(time.time())
    claims = {"iss": info["client_email"], "aud": AUDIENCE, "scope": READ, "iat": now, "exp": now + 3600, **changes}
    token = jwt.encode(crypt.RSASigner.from_service_account_info(info), claims).decode()
    return token if wrong is None else wrong(token)


def test_service_account(start):
    pytest.importorskip("cryptography")
    sim, client = start()
    info = sim.service_account()
    assert info["token_uri"] == f"{sim.url}/token"
    answer = post(client, grant_type=JWT_GRANT, assertion=assertion(info))
    assert answer.status == 200, answer.body
    robot = Client(sim, answer.json["access_token"])
    assert robot.query().status == 200 and sim.log[0].user == info["client_email"]
    robot.close()
    assert post(client, grant_type=JWT_GRANT, assertion=assertion(info, aud=f"{sim.url}/token")).status == 200
    delegated = post(client, grant_type=JWT_GRANT, assertion=assertion(info, sub="boss@example.com"))
    assert sim._tokens.check(delegated.json["access_token"]).user == "boss@example.com"


def flip(token):
    head, claims, signature = token.split(".")
    return f"{head}.{claims}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def test_bad_assertions(start):
    pytest.importorskip("cryptography")
    sim, client = start()
    info = sim.service_account()
    now = int(time.time())
    for changes in ({"aud": "https://example.com"}, {"exp": now + 3_700}, {"iat": now - 9_000, "exp": now - 5_400},
                    {"iat": now + 1_000, "exp": now + 1_200}, {"iss": "nobody@example.com"}, {"wrong": flip},
                    {"wrong": lambda token: "x.y"}, {"wrong": lambda token: token + "A"}):
        answer = post(client, grant_type=JWT_GRANT, assertion=assertion(info, **changes))
        assert (answer.status, answer.json["error"]) == (400, "invalid_grant"), changes
    assert post(client, grant_type=JWT_GRANT, assertion=assertion(info, scope="")).json["error"] == "invalid_scope"
    other = {**sim.service_account("other@x.iam.gserviceaccount.com"), "client_email": info["client_email"]}
    assert "Signature" in post(client, grant_type=JWT_GRANT, assertion=assertion(other)).json["error_description"]
    sim.revoke(info["client_email"])
    assert post(client, grant_type=JWT_GRANT, assertion=assertion(info)).status == 400


def test_google_auth_gets_tokens_here(start):
    """google-auth unmodified, refreshing against this server."""
    pytest.importorskip("cryptography")
    credentials = pytest.importorskip("google.oauth2.credentials")
    service_account = pytest.importorskip("google.oauth2.service_account")
    transport = pytest.importorskip("google.auth.transport.requests")
    sim, _ = start()
    info = sim.credentials()
    user = credentials.Credentials(None, refresh_token=info["refresh_token"], token_uri=info["token_uri"],
                                   client_id=info["client_id"], client_secret=info["client_secret"])
    robot = service_account.Credentials.from_service_account_info(sim.service_account(), scopes=[READ])
    for source in (user, robot):
        session = transport.AuthorizedSession(source)
        answer = session.get(f"{sim.url}/webmasters/v3/sites")
        session.close()
        assert answer.json()["siteEntry"][0]["siteUrl"] == SITE
        assert source.valid
    assert sim.stats()["token_posts"] == 2
    assert json.dumps(info)
