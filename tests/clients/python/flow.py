"""A journey through the API with a client that openapi-python-client has generated."""

import json
import os
import time
import uuid

import pyotp
from fulexo_client import AuthenticatedClient, Client
from fulexo_client.api.accounts import list_accounts
from fulexo_client.api.authentication import get_current_session, login, login_with_second_factor, refresh_tokens, register
from fulexo_client.api.me import confirm_totp, enrol_totp, list_my_sessions, revoke_my_session
from fulexo_client.api.policy import change_policy, get_policy
from fulexo_client.models import (
    ChangedPolicy,
    LoginRequest,
    Policy,
    PolicyRequest,
    Problem,
    RefreshRequest,
    RegisteredAccount,
    RegistrationRequest,
    SecondFactorRequest,
    SecondFactorChallenge,
    TokenResponse,
    TotpConfirmationRequest,
)

with open(os.environ["DEV_JSON"], encoding="utf-8") as file:
    dev = json.load(file)
PASSWORD = "correct-Horse7battery"


def caller(tokens):
    assert isinstance(tokens, TokenResponse), tokens
    return AuthenticatedClient(base_url=dev["url"], token=tokens.access_token)


nobody = Client(base_url=dev["url"])
email = f"py-{uuid.uuid4()}@example.com"
account = register.sync(client=nobody, body=RegistrationRequest(email=email, password=PASSWORD, display_name="Ann"))
assert isinstance(account, RegisteredAccount) and account.email == email, account

wrong = login.sync_detailed(client=nobody, body=LoginRequest(email=email, password="wrong"))
assert wrong.status_code == 401 and isinstance(wrong.parsed, Problem) and wrong.parsed.code == "invalid_credentials", wrong

ann = caller(login.sync(client=nobody, body=LoginRequest(email=email, password=PASSWORD)))
app = pyotp.TOTP(enrol_totp.sync(client=ann).secret)
confirmed = confirm_totp.sync(client=ann, body=TotpConfirmationRequest(code=app.now()))
assert len(confirmed.recovery_codes) == 10, confirmed

challenge = login.sync(client=nobody, body=LoginRequest(email=email, password=PASSWORD))
assert isinstance(challenge, SecondFactorChallenge), challenge
code = app.at(time.time(), 1)
second = login_with_second_factor.sync(
    client=nobody, body=SecondFactorRequest(challenge_token=challenge.challenge_token, code=code)
)
assert isinstance(second, TokenResponse), second
refreshed = refresh_tokens.sync(client=nobody, body=RefreshRequest(refresh_token=second.refresh_token))
other = caller(refreshed)

sessions = list_my_sessions.sync(client=ann, limit=10).items
assert second.session_id in [session.session_id for session in sessions], sessions
assert revoke_my_session.sync_detailed(second.session_id, client=ann).status_code == 204
refused = get_current_session.sync(client=other)
assert isinstance(refused, Problem) and refused.code == "invalid_token", refused

admin = caller(login.sync(client=nobody, body=LoginRequest.from_dict(dev["accounts"]["admin"])))
policy = get_policy.sync(client=admin)
assert isinstance(policy, Policy), policy
figures = {name: value for name, value in policy.to_dict().items() if name != "version"}
figures["lockout"]["threshold"] = 7
changed = change_policy.sync(client=admin, body=PolicyRequest.from_dict(figures | {"reason": "a client's journey"}))
assert isinstance(changed, ChangedPolicy) and changed.lockout.threshold == 7, changed
assert len(list_accounts.sync(client=admin, limit=1).items) == 1
print("Python: register, log in, second factor, refresh, list, revoke, change the policy")
