"""Logs in as SUBJECT, one of the accounts in DEV_JSON, and again every second: what is tried may end the session."""

import json
import os

import requests
import schemathesis

with open(os.environ["DEV_JSON"]) as file:
    DEV = json.load(file)
ACCOUNT = DEV["accounts"][os.environ["SUBJECT"]]
# By it the device is known again, whatever strangers, ourselves among them, do to the address.
DEVICE = {}


@schemathesis.auth(refresh_interval=1)
class Login:
    def get(self, case, context):
        body = {"email": ACCOUNT["email"], "password": ACCOUNT["password"], **DEVICE}
        answer = requests.post(DEV["url"] + "/v1/auth/login", json=body, timeout=20)
        if answer.status_code != 200:
            raise RuntimeError(f"the account cannot log in any more: {answer.text}")
        DEVICE["device_token"] = answer.json()["device_token"]
        return answer.json()["access_token"]

    def set(self, case, data, context):
        case.headers["Authorization"] = f"Bearer {data}"
