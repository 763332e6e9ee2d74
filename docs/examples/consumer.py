"""Prints every event of the log once, by position, and goes on where it was. Needs nats-py: pip install nats-py
   NATS_URL=nats://user:password@host:4222 python consumer.py STATE_FILE"""
import asyncio, hashlib, json, nats, os, pathlib, sys
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

async def follow(js, file):
    state = json.loads(file.read_text()) if file.exists() else {"next": 0, "epoch": None}
    start = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=state["next"] + 1,
                           ack_policy=AckPolicy.NONE)
    messages = await js.pull_subscribe("log.>", config=start)  # finds the stream
    while batch := await messages.fetch(100, timeout=5):  # silence for 5 s: look for the stream again
        for message in batch:
            header, position = message.headers or {}, int((message.headers or {}).get("Fulexo-Position", -1))
            if hashlib.sha256(b"\0" + message.data).hexdigest() != header.get("Fulexo-Leaf-Hash") or position < state["next"]:
                continue  # not an event, or one that was seen
            if state["epoch"] not in (None, header["Fulexo-Epoch"]) or position > state["next"]:
                sys.exit(f"another history or a gap at position {position}: see docs/consumers.md")
            print(position, message.subject, json.loads(message.data)["time"])
            state = {"next": position + 1, "epoch": header["Fulexo-Epoch"]}
        file.write_text(json.dumps(state))

async def main():
    js = (await nats.connect(os.environ["NATS_URL"], max_reconnect_attempts=-1)).jetstream()
    while True:
        try:
            await follow(js, pathlib.Path(sys.argv[1]))
        except (asyncio.TimeoutError, nats.errors.Error):
            await asyncio.sleep(1)  # silence, a consumer that is gone, a NATS that is away

asyncio.run(main())
