"""Replies of a caption server: whatever one reply does is a fault of that photograph, and the other one gets its caption."""
import base64
import gzip
import io
import json
import socketserver
import struct
import threading
import time
import zlib

import pandas as pd
from PIL import Image

from hostile import Case, Either, Says
from retinalogos.captions import backends
from retinalogos.captions.prompts import STRUCTURES, load_prompt
from retinalogos.captions.run import caption_dataset, read_journal
from retinalogos.config import write_table
from retinalogos.data.dataset import RECORD_COLUMNS
from retinalogos.data.records import EyeRecord

GOOD = "this photograph shows clear media and a round optic disc"
DRAFT = "a draft that is no caption but holds enough words to be one"
KEY = "sk-SECRET-123"
REFUSED = Says(r"^photograph: \S")  # noted as the fault of that photograph, whatever the words
KEPT = {"caption": GOOD, "attempts": 1}


def answer(caption=GOOD, **changed) -> str:
    """What a model writes when it does as told."""
    return json.dumps({name: "normal" for name in STRUCTURES} | {"caption": caption} | changed)


def chat(content=None, **changed) -> bytes:
    """A chat completion; `changed` are keys of its choice."""
    choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": answer() if content is None else content}}
    return json.dumps({"choices": [choice | changed], "usage": {"prompt_tokens": 400, "completion_tokens": 50}}).encode()


def message(**fields) -> bytes:
    """A chat completion with such a message, or with `finish_reason` beside it."""
    reason = fields.pop("finish_reason", "stop")
    return chat(message={"role": "assistant", "content": None} | fields, finish_reason=reason)


def http(body: bytes = b"", status: int = 200, **headers) -> bytes:
    """A whole response; underscores in names of headers stand for hyphens, None leaves a header out."""
    lines = {"Content-Length": len(body), "Content-Type": "application/json", "Connection": "close"} | {k.replace("_", "-"): v for k, v in headers.items()}
    head = "".join(f"{k}: {v}\r\n" for k, v in lines.items() if v is not None)
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode("latin-1") + body


def picture(colour) -> bytes:
    """A small PNG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


FIRST, SECOND, THIRD = picture((200, 80, 20)), picture((20, 80, 200)), picture((20, 200, 80))
MARK = base64.b64encode(SECOND)


class Server(socketserver.ThreadingTCPServer):
    """Answers well, but `reply(times, body)` to the second photograph; what it gives is bytes, or an iterable of bytes."""
    allow_reuse_address = daemon_threads = True

    def __init__(self, reply):
        self.reply, self.times, self.bodies = reply, 0, []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *about):
        """The client may go away."""


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.rfile.readline() or b"\r\n\r\n"
        length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), 0)
        body, server = self.rfile.read(length), self.server
        server.bodies.append(body)
        server.times += MARK in body
        given = server.reply(server.times, body) if MARK in body else http(chat())
        for piece in [given] if isinstance(given, bytes) else given:
            self.wfile.write(piece)
            self.wfile.flush()


def dataset(folder, pictures=(FIRST, SECOND, THIRD)):
    """A data set folder of photographs about which nothing is known."""
    ids = [f"eye-{k}" for k in range(len(pictures))]
    rows = [{"image_id": i, "patient_id": i, "source": "test", "split": "train", **EyeRecord().to_row()} for i in ids]
    write_table(folder / "records.parquet", pd.DataFrame(rows).reindex(columns=list(RECORD_COLUMNS)))
    write_table(folder / "findings.parquet", pd.DataFrame({"image_id": []}))
    write_table(folder / "images/train-00000.parquet", pd.DataFrame({"image_id": ids, "low": pictures, "high": pictures}))
    return folder


class Noted(backends.UserError):
    """What the table of captions says of the second photograph."""


def ask(reply, judged=None, timeout=3.0):
    """The function of a case: captions of three photographs, of which the second meets `reply`; `judged` makes the value."""
    def run(folder):
        backends.pause = lambda *about: 0.01
        server = Server(reply)
        backend = backends.OpenAIBackend(load_prompt("v1", "short"), f"http://127.0.0.1:{server.server_address[1]}/v1", "m", key=KEY,
                                         concurrency=1, timeout=timeout, max_attempts=2, patience=4)
        try:
            table = caption_dataset(dataset(folder / "set"), backend, 1, folder / "journal")
        except backends.UserError as error:
            failures = [row for row in read_journal(folder / "journal") if row.get("error")]
            raise backends.UserError(f"the run: {error}" + " [a failure is kept]" * bool(failures)) from None
        first, second, third = table.to_dict("records")
        if first["caption"] != GOOD or third["caption"] != GOOD:
            return f"the other photographs: {first['error']} {third['error']}"
        if judged is not None:
            return judged(server, second)
        if not second["caption"]:
            raise Noted(f"photograph: {second['error']}")
        numbers = [second["prompt_tokens"], second["answer_tokens"]]
        odd = any(not 0 <= n < 2**31 for n in numbers)
        return {"caption": second["caption"], "attempts": int(second["attempts"])} | ({"tokens": numbers} if odd else {})
    return run


def always(given):
    return lambda times, body: given


def once(given):
    """`given` the first time, a good answer afterwards."""
    return lambda times, body: given if times == 1 else http(chat())


def statuses():
    """Status lines: told with their number, or a reason to stop."""
    for status in (400, 402.5, 405, 406, 408, 409, 410, 411, 413, 415, 418, 422, 425, 431, 451, 500, 501, 505, 507, 508, 511, 520, 524, 529,
                   599, 204, 205, 301, 302, 303, 304, 307, 308):
        if status != 402.5:
            yield f"status {status} for one photograph", always(http(b'{"error": {"message": "no"}}', status)), Says(rf"^photograph: .*{status}")
    for status in (429, 502, 503, 504, 500, 408, 425, 529):
        yield f"status {status} once", once(http(b"busy", status, Retry_After="0")), lambda v: v == KEPT | {"attempts": 2}
    yield "402, out of credit", always(http(b'{"error": {"message": "Insufficient credits, add more"}}', 402)), Says(r"^the run: .*Insufficient credits(?!.*failure is kept)")
    for code in ("insufficient_quota", "billing_hard_limit_reached"):
        body = json.dumps({"error": {"message": "You exceeded your current quota", "type": code, "code": code}}).encode()
        yield f"429, {code}", always(http(body, 429)), Says(r"^the run: .*exceeded your current quota(?!.*failure is kept)")
    yield "403, moderated", always(http(b'{"error": {"message": "flagged by moderation"}}', 403)), Says("^photograph: .*(403|flagged)")
    yield "401 after good answers", always(http(b'{"error": {"message": "bad key"}}', 401)), Says("^the run: .*key")
    yield "404, no such model", always(http(b'{"error": {"message": "no model m"}}', 404)), Says("^the run: .*model")
    yield "redirect to itself", always(http(b"", 302, Location="/v1/chat/completions")), Says("^photograph: .*302")


def headers():
    """Headers and the shape of the connection."""
    fine = chat()
    for name, value in {"type text/html": {"Content_Type": "text/html"}, "no type": {"Content_Type": None}, "no length": {"Content_Length": None, "Connection": "close"},
                        "unknown charset": {"Content_Type": "application/json; charset=klingon"}, "charset twice": {"Content_Type": "application/json; charset=utf-8; charset=x"},
                        "zlib codec as charset": {"Content_Type": "application/json; charset=zlib_codec"}, "rot13 as charset": {"Content_Type": "application/json; charset=rot13"},
                        "latin-1 in a header": {"X_Name": "caf\xe9"}, "an odd cookie": {"Set_Cookie": "a=b; expires=never; domain=.x"}, "encoding identity": {"Content_Encoding": "identity"},
                        "an empty encoding": {"Content_Encoding": ""}, "unknown encoding": {"Content_Encoding": "snappy"}}.items():
        yield name, always(http(fine, **value)), Either((KEPT, REFUSED))
    for name, given in {"length too long": http(fine, Content_Length=len(fine) + 50), "length too short": http(fine, Content_Length=40), "length is a word": http(fine, Content_Length="many"),
                        "length negative": http(fine, Content_Length=-1), "nothing at all": b"", "garbage": b"\x00\xff" * 100, "SSH": b"SSH-2.0-OpenSSH_9.6\r\n", "half a status": b"HTTP/1.1 2",
                        "status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n", "header of 200 kB": http(fine, X="a" * 200_000), "5,000 headers": http(fine, **{f"X{k}": k for k in range(5000)}),
                        "broken chunks": http(b"zz\r\nno\r\n", Transfer_Encoding="chunked", Content_Length=None), "chunk cut": http(b"ff\r\nno", Transfer_Encoding="chunked", Content_Length=None),
                        "TLS alert": b"\x15\x03\x01\x00\x02\x02\x28", "status only": b"HTTP/1.1 200 OK\r\n\r\n"}.items():
        yield name, always(given), Either((REFUSED, KEPT) if "5,000" in name else (REFUSED,))
        yield f"{name}, once", once(given), lambda v: v["caption"] == GOOD
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(fine[k:k + 7]), fine[k:k + 7]) for k in range(0, len(fine), 7)) + b"0\r\n\r\n"
    yield "chunks of 7 bytes", always(http(chunked, Transfer_Encoding="chunked", Content_Length=None)), KEPT


WAITS = ("", "-1", "1e400", "nan", "inf", "-inf", "soon", "\u0663", "1,2", "0x1", "Mon, 99 Foo 2026 00:00:00 GMT", "Fri, 31 Dec 99999 23:59:59 GMT", "9" * 5000 + "x",
         "Thu, 01 Jan 1970 00:00:00 GMT", "1 s", "1.5.5s", "--", "\x00", "Wed, 21 Oct 2015 07:28:00 +9999999", "9" * 400, "9" * 400 + "d", "Fri, 31 Dec 9999 23:59:59 GMT")


def waits():
    """Waits that a server asks for: a number of seconds in 0 to an hour comes of any text."""
    for text in WAITS:
        for name in ("retry-after", "x-ratelimit-reset-requests"):
            told = {name: text, "x-ratelimit-remaining-requests": "0"}
            right = (lambda v: v == 3600 or v == 0) if "9999" in text else (lambda v: v in (0, 3))
            yield Case(f"{name}: {text[:40]!r}", lambda folder, told=told: float(backends.asked_wait(told)), right)


def compressed():
    """Content-Encoding and charsets of the body."""
    fine, zip_ = chat(), gzip.compress(chat())
    yield "gzip", always(http(zip_, Content_Encoding="gzip")), KEPT
    yield "deflate", always(http(zlib.compress(fine), Content_Encoding="deflate")), KEPT
    yield "gzip twice", always(http(gzip.compress(zip_), Content_Encoding="gzip, gzip")), Either((KEPT, REFUSED))
    raw = zlib.compressobj(wbits=-15)
    yield "raw deflate", always(http(raw.compress(fine) + raw.flush(), Content_Encoding="deflate")), Either((KEPT, REFUSED))
    for name in ("gzip", "deflate", "br", "zstd"):
        yield f"{name}, but it is plain", always(http(fine, Content_Encoding=name)), Either((REFUSED, KEPT) if name in ("br", "zstd") else (REFUSED,))
    for share in (1, 10, 50, 90):
        yield f"gzip cut at {share} %", always(http(zip_[:len(zip_) * share // 100], Content_Encoding="gzip")), REFUSED
    yield "gzip with a wrong sum", always(http(zip_[:-8] + bytes(8), Content_Encoding="gzip")), REFUSED
    yield "1.5 GB of zeros in gzip", always(http(gzip.compress(bytes(1 << 20), 6) * 1500, Content_Encoding="gzip")), REFUSED
    yield "300 MB of spaces in gzip", always(http(gzip.compress(b" " * 300_000_000, 1), Content_Encoding="gzip")), REFUSED
    for charset in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be", "latin-1", "cp1252"):
        body = fine.decode().encode(charset)
        yield f"body in {charset}", always(http(body)), Either((KEPT, REFUSED))
    for charset in ("latin-1", "cp1252", "shift_jis", "gb18030"):
        body = chat().decode().replace("round", "d\u00e9fini" if charset in ("latin-1", "cp1252") else "\u5186").encode(charset)
        yield f"letters in {charset}, said to be UTF-8", always(http(body)), Either((REFUSED, lambda v: any(c in v["caption"] for c in ("d\u00e9fini", "\u5186", "\ufffd"))))


def shapes():
    """JSON of other shapes."""
    replaced = lambda v: "\ufffd" in v["caption"]
    for name, body in {"an array": b"[]", "null": b"null", "a number": b"7", "a string": b'"hello"', "nothing": b"", "an object": b"{}", "no choices": b'{"choices": []}', "choices null": b'{"choices": null}',
                       "choices a dict": b'{"choices": {"0": {}}}', "choice null": b'{"choices": [null]}', "choice a word": b'{"choices": ["x"]}', "message null": b'{"choices": [{"message": null}]}',
                       "message a word": b'{"choices": [{"message": "x"}]}', "100,000 brackets": b"[" * 100_000, "100,000 objects": b'{"a":' * 100_000, "HTML": b"<!doctype html><h1>502</h1>", "XML": b"<a/>",
                       "half": chat()[:100], "two objects": chat() + chat(), "a stream": b"data: " + chat() + b"\n\ndata: [DONE]\n\n", "NaN": b"NaN", "lone surrogate as bytes": chat().replace(b"round", b"\xed\xa0\x80"),
                       "invalid bytes": chat().replace(b"round", b"\xff\xfe"), "NUL": b"\0" * 50, "a number of 10,000 digits": b'{"choices": [' + b"9" * 10_000 + b"]}", "only usage": b'{"usage": {}}'}.items():
        good = {"a stream": KEPT, "two objects": KEPT, "lone surrogate as bytes": replaced, "invalid bytes": replaced}.get(name)
        yield name, always(http(body)), Either((REFUSED, good)) if good else REFUSED
    for name, content in {"a number": 7, "a dict": {"text": 1}, "true": True, "an empty list": [], "a list of numbers": [1, 2], "parts without text": [{"type": "image_url"}], "blank": "  ", "list of null": [None]}.items():
        yield f"content {name}", always(http(message(content=content))), REFUSED
    yield "content in parts", always(http(message(content=[{"type": "text", "text": answer()[:50]}, {"type": "text", "text": answer()[50:]}]))), KEPT
    yield "content in typed output parts", always(http(message(content=[{"type": "output_text", "text": answer()}]))), KEPT
    yield "answer in a tool call", always(http(message(tool_calls=[{"type": "function", "function": {"name": "answer", "arguments": answer()}}], finish_reason="tool_calls"))), KEPT
    yield "tool call with an object", always(http(message(tool_calls=[{"function": {"name": "answer", "arguments": json.loads(answer())}}]))), Either((KEPT, REFUSED))
    yield "tool call of a wrong form", always(http(message(tool_calls=[{"function": 7}, None, "x"]))), REFUSED
    yield "cut", always(http(message(finish_reason="length"))), Says("^photograph: .*(cut|length)")
    yield "cut in the JSON", always(http(chat(answer()[:60], finish_reason="length"))), Says("^photograph: .*(cut|length)")
    yield "refused", always(http(message(refusal="I will not look at eyes"))), Says("^photograph: .*refus")
    yield "filtered", always(http(message(content="", finish_reason="content_filter"))), Says("^photograph: .*filter")
    yield "error with status 200", always(http(b'{"error": {"message": "model overloaded", "code": 503}}')), Says("^photograph: .*overloaded")
    yield "error a word, status 200", always(http(b'{"error": "CUDA out of memory"}')), Says("^photograph: .*CUDA out of memory")
    yield "detail with status 200", always(http(b'{"detail": [{"msg": "field required"}]}')), REFUSED
    yield "choices null beside an error", always(http(b'{"choices": null, "error": {"message": "engine died"}}')), Says("^photograph: .*engine died")


def wrappings():
    """The answer within other text."""
    fine = json.loads(answer())
    for name, text in {"in a fence": f"```json\n{answer()}\n```", "with a preface": f"Here is it: {answer()} Done.", "wrapped once": json.dumps({"answer": fine}), "wrapped as response": json.dumps({"response": fine}),
                       "in a list": json.dumps([fine]), "further keys": answer(score=3), "other spelling": answer(optic_disc="Normal", lesions="not visible"), "pretty": json.dumps(fine, indent=8),
                       "answers twice the same": answer() + answer(), "a draft before": f"Draft: {answer(DRAFT)}\nFinal: {answer()}", "three": answer(DRAFT) * 2 + answer(), "after braces": "{{{ " + answer(),
                       "BOM before": "\ufeff" + answer(), "an example of the format before": f'Format: {{"caption": "..."}}\n{answer()}', "a half after it": answer() + answer(DRAFT)[:70]}.items():
        yield name, always(http(chat(text))), Either((KEPT, REFUSED) if name in ("wrapped twice", "after braces") else (KEPT,))
    for name, text in {"single quotes": answer().replace('"', "'"), "trailing comma": answer()[:-1] + ",}", "a key lacks": json.dumps({k: v for k, v in fine.items() if k != "macula"}), "caption a list": answer([GOOD]),
                       "caption null": answer(None), "caption a number": answer(5), "caption empty": answer(""), "disc a number": answer(optic_disc=1), "disc true": answer(optic_disc=True), "disc null": answer(optic_disc=None),
                       "disc a word": answer(optic_disc="fine"), "JSON in JSON": json.dumps(json.dumps(answer())), "a list of words": '["normal"]', "prose": "The eye is normal, I think, as far as one can see."}.items():
        yield name, always(http(chat(text))), Either((REFUSED, KEPT) if name == "JSON in JSON" else (REFUSED,))


MARKS = {"think": ("<think>", "</think>"), "thinking": ("<thinking>", "</thinking>"), "THINK": ("<THINK>", "</THINK>"), "reasoning": ("<reasoning>", "</reasoning>"), "MedGemma": ("<unused94>thought\n", "<unused95>"),
         "Mistral": ("[THINK]", "[/THINK]"), "Kimi": ("\u25c1think\u25b7", "\u25c1/think\u25b7"), "gpt-oss": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
         "Seed": ("<seed:think>", "</seed:think>"), "Cohere": ("<|START_THINKING|>", "<|END_THINKING|>"), "thought": ("<thought>", "</thought>")}


def thoughts():
    """Models that think aloud: a draft is never the caption."""
    for name, (start, end) in MARKS.items():
        yield f"{name}: closed", always(http(chat(f"{start}maybe {answer(DRAFT)} or so{end}{answer()}"))), KEPT
        yield f"{name}: never opened", always(http(chat(f"maybe {answer(DRAFT)} or so{end}{answer()}"))), KEPT
        yield f"{name}: never closed", always(http(chat(f"{start}maybe {answer(DRAFT)} or so"))), REFUSED
        yield f"{name}: closed, then nothing", always(http(chat(f"{start}maybe {answer(DRAFT)} or so{end}"))), REFUSED
    yield "thought in its own field", always(http(message(content=answer(), reasoning_content=answer(DRAFT)))), KEPT
    yield "thought in its own field alone", always(http(message(content="", reasoning_content=answer(DRAFT)))), REFUSED
    yield "two thoughts", always(http(chat(f"<think>a</think>{answer(DRAFT)}<think>b {answer(DRAFT)}</think>{answer()}"))), KEPT
    yield "nested", always(http(chat(f"<think>a<think>{answer(DRAFT)}</think>{answer(DRAFT)}</think>{answer()}"))), KEPT
    yield "14,000 marks", always(http(chat("<think>" * 14_000))), REFUSED
    yield "200,000 marks and an answer", always(http(chat("<think></think>" * 200_000 + answer()))), Either((KEPT, REFUSED))
    yield "20,000 nested objects", always(http(chat('{"a":' * 20_000 + answer()))), Either((KEPT, REFUSED))
    yield "100,000 open braces", always(http(chat("{" * 100_000))), REFUSED


ODD_NUMBERS = ("1000000000000000000000000000000", "-1", '"12"', "3.7", "true", "null", "[]", "{}", '"many"', "9223372036854775808", "2147483648", "1e999", "-1e999", "NaN", "9" * 5000, "1e400", '"\u0663"', "-0.5")


def numbers():
    """Numbers of tokens: taken when they can be, else unknown; the caption is taken."""
    for text in ODD_NUMBERS:
        for name in ("prompt_tokens", "completion_tokens"):
            body = chat().replace(b'"%s": %d' % (name.encode(), 400 if "prompt" in name else 50), f'"{name}": {text}'.encode())
            yield f"{name} {text[:24]}", always(http(body)), Either((KEPT, REFUSED) if len(text) > 4000 else (KEPT,))
    for text in ("null", "[]", "7", '"x"', "true"):
        yield f"usage {text}", always(http(chat().replace(chat()[chat().index(b'"usage"'):], f'"usage": {text}}}'.encode()))), KEPT


HIDDEN_TEXT = {"lone surrogate": "\ud83d", "NUL": "\0", "escape": "\x1b[2J", "zero width": "\u200b\u200d", "tag characters": "\U000e0041\U000e0042", "right to left": "\u202egnp", "private use": "\ue000", "BOM": "\ufeff",
               "line separator": "\u2028", "soft hyphen": "\u00ad", "bell": "\a", "noncharacter": "\uffff", "interlinear": "\ufff9", "delete": "\x7f", "C1 control": "\x9b31m", "variation selectors": "\ufe0f" * 30}
BAD_TEXT = {"formula": "=HYPERLINK(0) and media that are clear and an optic disc that is round", "a long word": GOOD + " " + "a" * 90_000, "2 MB": (GOOD + " ") * 30_000, "HTML": GOOD + " <b>x</b>", "link": GOOD + " https://x.y",
            "a diagnosis": GOOD + " with glaucoma", "talk": GOOD + ", I am sorry", "short": "an eye", "formula with at": "@SUM(A1) media are clear and the optic disc is round", "formula with plus": "+1 media are clear and the optic disc is round"}


def texts():
    """Captions with text that nobody sees or wants."""
    def clean(value):
        return all(c.isprintable() and not 0xFE00 <= ord(c) <= 0xFE0F for c in value["caption"]) and value["caption"][0].isalnum()
    for name, hidden in HIDDEN_TEXT.items():
        yield f"caption with {name}", always(http(chat(answer(GOOD.replace("round", f"rou{hidden}nd"))))), Either((REFUSED, clean))
        yield f"caption that begins with {name}", always(http(chat(answer(hidden + GOOD)))), Either((REFUSED, clean))
    for name, text in BAD_TEXT.items():
        yield f"caption: {name}", always(http(chat(answer(text)))), Either((REFUSED, clean)) if "formula" in name else REFUSED


def drips():
    """Sizes and slowness: one deadline and one size for a whole reply."""
    def slowly(data, seconds, size=1):
        for k in range(0, len(data), size):
            yield data[k:k + size]
            time.sleep(seconds)

    def large(pieces, fill):
        yield http(b"", Content_Length=len(fill) * pieces)
        for _ in range(pieces):
            yield fill
    fine = http(chat())
    deadline = Says(r"^photograph: .*(within|deadline|3 s|answer)")
    for name, given in {"a byte each tenth of a second": lambda: slowly(fine, 0.1), "headers, then silence": lambda: slowly(fine[:80], 2, 40), "silence": lambda: (time.sleep(30) or b"" for _ in "x"),
                        "interim responses without end": lambda: slowly(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.2, 25), "blank lines in chunks": lambda: slowly(http(b"1\r\n \r\n" * 200, Transfer_Encoding="chunked", Content_Length=None), 0.1, 6)}.items():
        yield name, lambda times, body, given=given: given(), deadline
    for name, fill in {"600 MB of spaces": b" " * 1_000_000, "600 MB of zeros": bytes(1_000_000), "600 MB of brackets": b"[" * 1_000_000}.items():
        yield name, lambda times, body, fill=fill: large(600, fill), Says("^photograph: .*(large|long|MB|bytes|size|more than|within)")


def key_leaks():
    """Error pages that repeat the request's headers or its body: the key stands nowhere, and other photographs are asked as before."""
    def kept(server, row):
        return json.dumps(row, default=str)
    for status in (200, 400, 403, 422, 500, 501, 503):
        body = json.dumps({"error": {"message": f"Authorization: Bearer {KEY} was sent"}}).encode()
        yield Case(f"key in an error of status {status}", ask(always(http(body, status)), kept), lambda told: KEY not in told and '"error": "' in told)
    for status in (401, 402, 404):
        body = json.dumps({"error": {"message": f"Authorization: Bearer {KEY} was sent"}}).encode()
        yield Case(f"key in an error of status {status}", ask(always(http(body, status))), Says(rf"^(?!.*{KEY}).*$"))
    yield Case("key in an answer", ask(always(http(chat(answer(f"the key is {KEY} and the disc is round and clear"))))), Says(rf"^(?!.*{KEY}).*$"))

    def same_options(server, row):
        options = [set(json.loads(body)) for body in server.bodies]
        return options[0] == options[-1]
    for name, words in {"repeats the request": "cannot identify image; input: {'response_format': 1, 'max_tokens': 308, 'seed': 1, 'temperature': 0}",
                        "speaks of max_tokens": "'max_tokens' or 'max_completion_tokens' is too large: 308. This model's maximum context length is 2048 tokens",
                        "names temperature in passing": "image too hot: temperature of the sensor"}.items():
        yield Case(f"400 that {name}", ask(always(http(json.dumps({"error": {"message": words}}).encode(), 400)), same_options), True)
    for name in ("response_format", "seed", "temperature"):
        def reply(times, body, name=name):
            wrong = json.dumps({"error": {"message": f"Unsupported parameter: '{name}'", "param": name}}).encode()
            return http(wrong, 400) if name in json.loads(body) else http(chat())
        yield Case(f"400 for {name}, which is left out then", ask(reply, lambda server, row: row["caption"]), GOOD)


PROXIES = ("socks://127.0.0.1:9", "socks5://127.0.0.1:9", "http://127.0.0.1:9", "nonsense", "ftp://x:1", "http://user:pa ss@127.0.0.1:9")


def proxies():
    """Variables of the environment that name a proxy: loopback is asked without."""
    def run(folder, name, value):
        import os
        os.environ[name] = value
        return ask(always(http(chat())))(folder)
    for name in ("all_proxy", "http_proxy", "HTTPS_PROXY"):
        for value in PROXIES:
            yield Case(f"{name}={value}", lambda folder, name=name, value=value: run(folder, name, value), KEPT)


def cases(rng):
    for page in (statuses, headers, compressed, shapes, wrappings, thoughts, numbers, texts, drips):
        for name, reply, want in page():
            yield Case(f"{page.__name__}: {name}", ask(reply), want)
    for page in (waits, key_leaks, proxies):
        yield from page()
