"""Prints every event of the log once, by position, and goes on where it was. Needs nats-py: pip install nats-py
   NATS_URL=nats://user:password@host:4222 python consumer.py STATE_FILE"""
import asyncio, hashlib, json, os, pathlib, sys
import nats
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

async def follow(js, state, file):
    name = await js.find_stream_name_by_subject("log.>")
    start = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=state["next"] + 1,
                           ack_policy=AckPolicy.NONE)
    info = await js.add_consumer(name, start)
    messages = await js.pull_subscribe_bind(info.name, name)
    while batch := await messages.fetch(100, timeout=5):  # silence for 5 s: look for the stream again
        for message in batch:
            header, position = message.headers or {}, int((message.headers or {}).get("Fulexo-Position", -1))
            if hashlib.sha256(b"\0" + message.data).hexdigest() != header.get("Fulexo-Leaf-Hash") or position < state["next"]:
                continue  # not an event, or one that was seen
            if state["epoch"] not in (None, header["Fulexo-Epoch"]) or position > state["next"]:
                sys.exit(f"another history or a gap at position {position}: see docs/consumers.md")
            print(position, message.subject, json.loads(message.data)["time"])
            state.update(next=position + 1, epoch=header["Fulexo-Epoch"])
        file.write_text(json.dumps(state))

async def main():
    file = pathlib.Path(sys.argv[1])
    state = json.loads(file.read_text()) if file.exists() else {"next": 0, "epoch": None}
    js = (await nats.connect(os.environ["NATS_URL"], max_reconnect_attempts=-1)).jetstream()
    while True:
        try:
            await follow(js, state, file)
        except Error:
            await asyncio.sleep(1)  # silence, a consumer that is gone, a NATS that is away

asyncio.run(main())
