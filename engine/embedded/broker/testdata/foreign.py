"""What a producer or consumer in Python does, with the client stomp.py.

usage: foreign.py PORT VERSION     (VERSION: 1.0, 1.1 or 1.2)
Ends with status 0 if the broker did all that the client may expect.
"""

import queue
import sys
import threading
import time

import stomp

PATIENCE = 20


class Inbox(stomp.ConnectionListener):
    """Collects what the broker sends."""

    def __init__(self):
        self.messages = queue.Queue()
        self.errors = queue.Queue()
        self.receipts = {}
        self.lock = threading.Condition()

    def on_message(self, frame):
        self.messages.put(frame)

    def on_error(self, frame):
        self.errors.put(frame)

    def on_receipt(self, frame):
        with self.lock:
            self.receipts[frame.headers["receipt-id"]] = True
            self.lock.notify_all()

    def wait(self, receipt):
        with self.lock:
            assert self.lock.wait_for(lambda: receipt in self.receipts, PATIENCE), f"no receipt {receipt}"

    def next(self):
        return self.messages.get(timeout=PATIENCE)

    def nothing(self):
        assert self.messages.empty(), self.messages.get()


class Client:
    def __init__(self, port, version):
        self.version = version
        kind = {"1.0": stomp.Connection10, "1.1": stomp.Connection11, "1.2": stomp.Connection12}[version]
        options = {} if version == "1.0" else {"heartbeats": (1000, 1000)}
        self.connection = kind([("127.0.0.1", port)], **options)
        self.inbox = Inbox()
        self.connection.set_listener("inbox", self.inbox)
        self.connection.connect("anybody", "anything", wait=True)
        self.count = 0

    def send(self, destination, body, **headers):
        """Sends and waits until it is durable."""
        self.count += 1
        receipt = f"r{self.count}"
        headers = {name.replace("__", "-"): value for name, value in headers.items()}
        self.connection.send(destination, body, headers={"receipt": receipt, **headers})
        if "transaction" not in headers:
            self.inbox.wait(receipt)

    def subscribe(self, destination, window, name, ack="client-individual"):
        self.count += 1
        receipt = f"r{self.count}"
        self.connection.subscribe(destination, name, ack, headers={"activemq.prefetchSize": str(window), "receipt": receipt})
        self.inbox.wait(receipt)

    def settle(self, frame, how="ack", **more):
        headers = frame.headers
        if self.version == "1.0":
            self.connection.ack(headers["message-id"], **more)
        elif self.version == "1.1":
            getattr(self.connection, how)(headers["message-id"], headers["subscription"], **more)
        else:
            getattr(self.connection, how)(headers["ack"], **more)


def urgent_first(port, version):
    c = Client(port, version)
    for priority in (1, 9, 4, 9, 0):
        c.send("/queue/python", f"p{priority}", priority=str(priority), type="order.placed", persistent="true")
    c.subscribe("/queue/python", 1, "s1")
    got = []
    for _ in range(5):
        m = c.inbox.next()
        c.inbox.nothing()
        assert m.headers["type"] == "order.placed" and m.headers["persistent"] == "true", m.headers
        got.append(m.body)
        c.settle(m)
    assert got == ["p9", "p9", "p4", "p1", "p0"], got
    c.connection.disconnect()


def unacked_comes_again(port, version):
    c = Client(port, version)
    c.send("/queue/again", "x")
    c.subscribe("/queue/again", 5, "s1")
    first = c.inbox.next()
    assert "redelivered" not in first.headers, first.headers
    c.connection.disconnect()
    c = Client(port, version)
    c.subscribe("/queue/again", 5, "s1")
    second = c.inbox.next()
    assert second.headers["redelivered"] == "true" and second.headers["message-id"] == first.headers["message-id"]
    c.settle(second)
    c.connection.disconnect()


def transaction(port, version):
    c = Client(port, version)
    c.send("/queue/in", "x")
    c.subscribe("/queue/in", 5, "in")
    m = c.inbox.next()
    c.subscribe("/queue/out", 5, "out")
    for end in (c.connection.abort, c.connection.commit):
        tx = c.connection.begin()
        c.send("/queue/out", "follow-on", transaction=tx)
        c.settle(m, transaction=tx)
        c.inbox.nothing()
        end(tx)
    follow_on = c.inbox.next()
    assert follow_on.body == "follow-on", follow_on
    c.settle(follow_on)
    c.connection.disconnect()


def refused_is_dead(port, version):
    if version == "1.0":
        return  # it has no NACK
    c = Client(port, version)
    c.send("/queue/usher.work", "bad", priority="4")
    c.subscribe("/queue/usher.work.p4", 5, "s1")
    c.settle(c.inbox.next(), "nack")
    c.subscribe("/queue/DLQ.usher.work.p4", 5, "s2")
    dead = c.inbox.next()
    assert dead.body == "bad" and dead.headers["original-destination"] == "/queue/usher.work.p4", dead.headers
    c.settle(dead)
    c.connection.disconnect()


def later(port, version):
    c = Client(port, version)
    began = time.time()
    c.send("/queue/later", "x", AMQ_SCHEDULED_DELAY="700")
    c.subscribe("/queue/later", 5, "s1")
    c.settle(c.inbox.next())
    assert 0.6 < time.time() - began < PATIENCE
    c.connection.disconnect()


def reply(port, version):
    asker, replier = Client(port, version), Client(port, version)
    asker.subscribe("/temp-queue/answers", 5, "s1", "auto")
    asker.send("/queue/questions", "?", reply__to="/temp-queue/answers", correlation__id="c1")
    replier.subscribe("/queue/questions", 5, "s1")
    question = replier.inbox.next()
    replier.send(question.headers["reply-to"], "!", correlation__id=question.headers["correlation-id"])
    replier.settle(question)
    answer = asker.inbox.next()
    assert answer.body == "!" and answer.headers["correlation-id"] == "c1", answer
    asker.connection.disconnect()
    replier.connection.disconnect()


def text_arrives(port, version):
    c = Client(port, version)
    body = "grüße 猫 🚪\n\n"
    c.send("/queue/text", body, note="a value")
    c.subscribe("/queue/text", 5, "s1")
    m = c.inbox.next()
    assert m.body == body and m.headers["note"] == "a value", m
    c.settle(m)
    c.connection.disconnect()


def unexpected_ack(port, version):
    c = Client(port, version)
    c.subscribe("/queue/nothing", 5, "s1")
    fake = type("Frame", (), {"headers": {"message-id": "x", "subscription": "s1", "ack": "x"}})
    c.settle(fake)
    error = c.inbox.errors.get(timeout=PATIENCE)
    assert error.headers["message"].startswith("Unexpected ACK"), error.headers
    c.send("/queue/still-here", "x")
    c.connection.disconnect()


def beats(port, version):
    if version == "1.0":
        return
    c = Client(port, version)
    time.sleep(3.5)
    assert c.connection.is_connected(), "dropped, though it sent its heart-beats"
    c.connection.disconnect()


if __name__ == "__main__":
    for case in (urgent_first, unacked_comes_again, transaction, refused_is_dead, later, reply, text_arrives, unexpected_ack, beats):
        case(int(sys.argv[1]), sys.argv[2])
        print("ok", case.__name__, flush=True)
