"""Acts as somebody with the roles in ROLES, whom the operator registers anew whenever they cannot log in any more: what is
tried may end their session, lock, suspend or change them."""

import json
import os
import re
import subprocess
import uuid

import requests
import schemathesis

with open(os.environ["DEV_JSON"]) as file:
    DEV = json.load(file)
SOMEBODY = {}


def register():
    email = f"{uuid.uuid4()}@example.com"
    roles = [argument for role in os.environ["ROLES"].split() for argument in ("--role", role)]
    command = ["target/debug/fulexo", "register", "--email", email, *roles]
    said = subprocess.run(command, env={**os.environ, **DEV["env"]}, check=True, capture_output=True, text=True)
    SOMEBODY.update(email=email, password=re.search(r"^password +(\S+)$", said.stdout, re.MULTILINE)[1])


def log_in():
    answer = requests.post(DEV["url"] + "/v1/auth/login", json=SOMEBODY, timeout=20)
    return answer.json().get("access_token")


@schemathesis.auth(refresh_interval=1)
class Login:
    def get(self, case, context):
        token = SOMEBODY and log_in()
        if not token:
            register()
            token = log_in()
        if not token:
            raise RuntimeError("a new account cannot log in")
        return token

    def set(self, case, data, context):
        case.headers["Authorization"] = f"Bearer {data}"
