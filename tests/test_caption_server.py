"""Whatever one reply does is a fault of that photograph: a server on loopback that answers with given bytes."""
import base64
import gzip
import io
import json
import re
import socket
import threading
import time
import tracemalloc
from dataclasses import asdict

import pandas as pd
import pytest
from PIL import Image

from retinalogos.captions.backends import ImageFault, Job, OpenAIBackend, Reply, TextJob, TextPrompt, read_reply, served_model
from retinalogos.captions.examine import extract_facts
from retinalogos.captions.facts import model_facts, read_facts
from retinalogos.captions.prompts import STRUCTURES, InvalidAnswer, load_prompt, read_answer
from retinalogos.captions.run import Journal, caption_dataset, read_journal
from retinalogos.config import CaptionsSection, Settings, UserError, load_params, write_table
from retinalogos.data.dataset import RECORD_COLUMNS
from retinalogos.data.records import EyeRecord
from retinalogos.training.judge import llm_scores, read_verdict

PROMPT = load_prompt("v1", "short")
RECORD = EyeRecord(eye="OD", disease_labels=("diabetic_retinopathy",))
CAPTION = "right eye with diabetic retinopathy and several haemorrhages near the macula"


def answer(caption=CAPTION, **more):
    return json.dumps({name: "abnormal" for name in STRUCTURES} | {"caption": caption} | more)


def chat(message=None, finish="stop", usage=None, **more):
    message = {"role": "assistant", "content": answer()} if message is None else message
    return json.dumps({"choices": [{"index": 0, "finish_reason": finish, "message": message}], "usage": usage or {}} | more).encode()


def http(body=b"", status="200 OK", headers=(), length=None):
    body = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}", "Connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def read_request(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(65536)
        if not piece:
            return b""
        head += piece
    head, _, body = head.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return body


class Server:
    """Answers each request with what `reply(body)` gives: bytes, or a function of the connection."""

    def __init__(self):
        self.socket, self.asked, self.reply = socket.create_server(("127.0.0.1", 0)), [], lambda body: http(chat())
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.one, args=(connection,), daemon=True).start()

    def one(self, connection):
        with connection:
            try:
                body = read_request(connection)
                self.asked.append(json.loads(body) if body else {})
                reply = self.reply(body.decode("utf-8", "replace"))
                connection.sendall(reply) if isinstance(reply, bytes) else reply(connection)
            except OSError:
                pass


@pytest.fixture()
def server():
    one = Server()
    yield one
    one.socket.close()


def picture(k=0):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (k, 40, 10)).save(file, "PNG")
    return file.getvalue()


def jobs(n=1):
    return [Job(f"eye-{k}", picture(k), RECORD.model_copy(update={"report": f"eye-{k}"})) for k in range(n)]


def results(server, photographs=1, **options):
    options = {"max_attempts": 2, "timeout": 5, "key": "sk-SECRET", "concurrency": 1} | options
    return list(OpenAIBackend(PROMPT, server.address, "tiny", **options).answer(jobs(photographs)))


def drip(connection):
    for _ in range(100):
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-A: a\r\n" if not _ else b"X-B: b\r\n")
        time.sleep(0.05)


def endless(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(100):
        connection.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")


PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": answer()}]
CALLS = [{"id": "c", "type": "function", "function": {"name": "answer", "arguments": answer()}}]
GOOD = {
    "plain": chat(), "parts": chat({"content": PARTS}), "a tool": chat({"content": None, "tool_calls": CALLS}, "tool_calls"),
    "a function": chat({"content": "", "function_call": {"arguments": answer()}}), "wrapped": chat({"content": json.dumps({"answer": json.loads(answer())})}),
    "huge numbers of tokens": chat(usage={"prompt_tokens": 10 ** 30, "completion_tokens": -1}), "tokens as text": chat(usage={"prompt_tokens": "many"}),
    "usage is a list": chat(usage=[1]), "half an emoji": chat({"content": answer(CAPTION + " \ud83d")}),
    "one part": chat({"content": {"type": "text", "text": answer()}}), "parts as texts": chat({"content": ["", answer()]}),
    "words beside a tool": chat({"content": "I answer by the tool.", "tool_calls": CALLS}, "tool_calls"),
    "draft in a thought": chat({"content": f"<think>{answer('right eye, a first guess that is thrown away')}</think>{answer()}"}),
}


@pytest.mark.parametrize("name", GOOD)
def test_answers_in_all_shapes_are_read(server, name):
    server.reply = lambda body: http(GOOD[name])
    (result,) = results(server)
    assert (result.caption, result.error, result.attempts) == (CAPTION, "", 1)
    assert 0 <= result.prompt_tokens < 2 ** 31 and 0 <= result.answer_tokens < 2 ** 31


FAULTS = {
    "not gzip": (http("not gzip", headers=["Content-Encoding: gzip"]), "not compressed as its header says"),
    "cut gzip": (http(gzip.compress(chat())[:30], headers=["Content-Encoding: gzip"]), "not"),
    "a bomb": (http(gzip.compress(b" " * (200 << 20)), headers=["Content-Encoding: gzip"]), "more than 32 MB"),
    "a bomb in a bomb": (http(gzip.compress(gzip.compress(b" " * (200 << 20))), headers=["Content-Encoding: gzip, gzip"]), "compressed in a way"),
    "a bomb in a bomb, two headers": (http(gzip.compress(gzip.compress(b" " * (200 << 20))), headers=["Content-Encoding: gzip"] * 2), "compressed in a way"),
    "a compression not asked for": (http("\x0b", headers=["Content-Encoding: br"]), "compressed in a way"),
    "odd charset": (http(b"\xff\xfe\x00", headers=["Content-Type: application/json; charset=nonsense"]), "not a chat completion"),
    "deep": (http("[" * 100_000), "not a chat completion"), "no JSON": (http("<html>"), "not a chat completion"),
    "long number": (http('{"choices": ' + "9" * 10_000 + "}"), "not a chat completion"), "empty": (http(), "not a chat completion"),
    "cut body": (http(chat(), length=100_000), "connection lost"), "no http": (b"hello\r\n\r\n", "connection lost"), "nothing": (b"", "connection lost"),
    "long header": (http(chat(), headers=["X-Long: " + "a" * 300_000]), "connection lost"), "a drip": (drip, "no whole answer within"),
    "endless": (endless, "more than 32 MB"),
    "cut": (http(chat({"content": answer()[:-25]}, "length", {"completion_tokens": 308})), "cut at 308 tokens (finish_reason length); captions.max_tokens"),
    "thought to the end": (http(chat({"content": None, "reasoning": "First"}, "length", {"completion_tokens": 308})), "cut at 308 tokens"),
    "refused": (http(chat({"content": None, "refusal": "I cannot describe it."})), "refused: I cannot describe it."),
    "filtered": (http(chat({"content": ""}, "content_filter")), "filtered by the server"), "nothing said": (http(chat({"content": " "})), "an empty answer"),
    "no choices": (http('{"choices": []}'), "not a chat completion"), "odd choice": (http('{"choices": [7]}'), "not a chat completion"),
    "an error with status 200": (http('{"error": {"message": "Provider returned error", "code": 502}}'), "the server's own error, with status 200: Provider returned error"),
    "an error without its name": (http('{"object": "error", "message": "the model fell over", "code": 500}'), "own error, with status 200: the model fell over"),
    "an error in a choice": (http(json.dumps({"choices": [{"error": {"message": "Provider disconnected"}, "finish_reason": "error", "message": {"content": ""}}]})),
                             "own error, with status 200: Provider disconnected"),
    "an error in a list": (http('[{"error": {"message": "upstream is ill"}}]', "500 X"), "status 500: upstream is ill"),
    "cut behind a draft": (http(chat({"content": answer("right eye, a first guess that is thrown away") + " No, the disc is"}, "length", {"completion_tokens": 308})), "cut at 308 tokens"),
    "cut in the answer behind a draft": (http(chat({"content": answer("right eye, a first guess that is thrown away") + ' Better: {"optic_disc": "nor'}, "length", {"completion_tokens": 308})),
                                         "cut at 308 tokens"),
    "500": (http("oops", "500 X"), "status 500: oops"), "redirect": (http("", "302 X", ["Location: http://127.0.0.1:9/"]), "status 302"),
    "key in an error": (http("headers were: Authorization: Bearer sk-SECRET", "500 X"), "Bearer ***"),
    "key behind escapes": (http('{"error": {"message": "Bearer \\u0073k-SECRET"}}', "500 X"), "Bearer ***"),
    "key in base64": (http(f"headers: {base64.b64encode(b'sk-SECRET').decode()}", "500 X"), "headers: ***"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_one_reply_is_that_photographs(server, name):
    reply, reason = FAULTS[name]
    server.reply = lambda body: reply if "eye-1" in body else http(chat())
    timeout = 0.5 if name == "a drip" else 20
    got = {result.job.image_id: result for result in results(server, 3, timeout=timeout)}
    assert [got[f"eye-{k}"].caption for k in (0, 2)] == [CAPTION] * 2
    odd = got["eye-1"]
    assert not odd.caption and reason in odd.error and odd.attempts == 2 and "SECRET" not in odd.error, odd.error
    json.dumps(odd.error).encode()


@pytest.mark.parametrize("wait", ["Mon, 99999999999999999999 Jan 2026 00:00:00 GMT", "9" * 400, "-5", "soon", "1e999", "nan", "\xb2"])
def test_odd_waits(server, wait):
    server.reply = lambda body: http("busy", "429 X", [f"Retry-After: {wait}"]) if len(server.asked) == 1 else http(chat())
    (result,) = results(server)
    assert result.caption == CAPTION


def data_set(folder, n):
    ids = [f"eye-{k}" for k in range(n)]
    rows = [{"image_id": i, "patient_id": i, "source": "test", "split": "train", **RECORD.model_copy(update={"report": i}).to_row()} for i in ids]
    write_table(folder / "records.parquet", pd.DataFrame(rows).reindex(columns=list(RECORD_COLUMNS)))
    write_table(folder / "findings.parquet", pd.DataFrame({"image_id": []}))
    pictures = [picture(k) for k in range(n)]
    write_table(folder / "images/train-00000.parquet", pd.DataFrame({"image_id": ids, "low": pictures, "high": pictures}))
    return folder


def caption_all(server, folder, **options):
    options = {"max_attempts": 2, "concurrency": 1, "key": "sk-SECRET"} | options
    return caption_dataset(folder / "data", OpenAIBackend(PROMPT, server.address, "tiny", **options), 0, folder / "journal")


QUOTA = http(json.dumps({"error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}}), "429 X")
CREDIT = http(json.dumps({"error": {"message": "Insufficient credits. Add more", "code": 402}}), "402 X")
CREDIT_200 = http(json.dumps({"error": {"message": "Insufficient credits. Add more", "code": 402}}))


LOW = http(json.dumps({"error": {"message": "Your credit balance is too low to go on", "type": "invalid_request_error"}}), "400 X")
EMPTY = http(json.dumps({"code": 30001, "message": "Sorry, your account balance is insufficient"}), "403 X")


@pytest.mark.parametrize("reply, said", [(QUOTA, "exceeded your current quota"), (CREDIT, "Insufficient credits"), (CREDIT_200, "Insufficient credits"),
                                         (LOW, "credit balance is too low"), (EMPTY, "account balance is insufficient")])
def test_without_credit_the_run_stops_and_goes_on_later(server, tmp_path, reply, said):
    data_set(tmp_path / "data", 6)
    server.reply = lambda body: http(chat()) if len(server.asked) <= 3 else reply
    with pytest.raises(UserError, match=said):
        caption_all(server, tmp_path)
    rows = list(read_journal(tmp_path / "journal"))
    assert len(rows) == 3 and not any(row["error"] for row in rows) and len(server.asked) == 4
    server.reply = lambda body: http(chat())
    assert (caption_all(server, tmp_path).caption == CAPTION).all() and len(server.asked) == 7


@pytest.mark.parametrize("sentence", ["The input was flagged by moderation", "Request blocked: the image may be harmful"])
def test_a_flagged_photograph_is_its_own_fault(server, tmp_path, sentence):
    data_set(tmp_path / "data", 4)
    flagged = http(json.dumps({"error": {"message": sentence, "code": 403}}), "403 X")
    server.reply = lambda body: flagged if "eye-0" in body else http(chat())
    for _ in range(2):
        table = caption_all(server, tmp_path).set_index("image_id")
        assert sentence in table.error["eye-0"] and (table.caption[1:] == CAPTION).all()
    assert len(server.asked) == 4


def test_a_403_before_any_answer_is_the_key(server, tmp_path):
    server.reply = lambda body: http("Forbidden", "403 X")
    with pytest.raises(UserError, match="key in settings.local.ini is missing or wrong"):
        results(server)


def refuse(name, **more):
    return http(json.dumps({"error": {"message": f"Unsupported parameter: '{name}'", "code": 400} | more}), "400 X")


def test_an_option_is_dropped_when_it_is_named_and_that_helps(server):
    server.reply = lambda body: refuse("seed") if '"seed"' in body else http(chat())
    assert [result.caption for result in results(server, 3)] == [CAPTION] * 3
    assert ["seed" in body for body in server.asked] == [True, False, False, False]


@pytest.mark.parametrize("message", [
    "cannot identify image file, input: {'max_tokens': 308, 'temperature': 0, 'seed': 0, 'response_format': {}}",
    "'max_tokens' or 'max_completion_tokens' is too large: 308. Your request has 1900 input tokens", "Unsupported parameter: 'seed'"])
def test_an_error_about_one_photograph_changes_nothing_for_others(server, message):
    odd = http(json.dumps({"error": {"message": message}}), "400 X")
    server.reply = lambda body: odd if "eye-1" in body else http(chat())
    got = {result.job.image_id: result for result in results(server, 4)}
    assert not got["eye-1"].caption and message[:40] in got["eye-1"].error
    others = [body for body in server.asked if "eye-1" not in json.dumps(body)]
    assert len(others) == 3 and all({"seed", "max_tokens", "response_format", "temperature"} <= set(body) for body in others)


@pytest.mark.parametrize("reply, reason", [(drip, "no whole answer within 10 s"), (http("[" * 100_000), "status 200"), (http("no", "500 X"), "status 500"),
                                           (endless, "more than 32 MB"), (http('{"data": [{"id": 7}]}'), "none offered")])
def test_the_list_of_models_has_one_time_and_one_size(server, monkeypatch, reply, reason):
    if reply is drip:
        pytest.skip("ten seconds")
    server.reply = lambda body: reply
    with pytest.raises(UserError, match=reason):
        served_model(server.address, "", None)


def test_loopback_never_goes_through_a_proxy(server, monkeypatch):
    for name in ("all_proxy", "http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "socks://127.0.0.1:7890/" if name == "all_proxy" else "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert results(server)[0].caption == CAPTION


OTHER_PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "http://me:wo/rd@127.0.0.1:9", "me:word@127.0.0.1:9", "http://[bad", "http://127.0.0.1:99999999"])
def test_a_proxy_that_does_not_answer_is_named(monkeypatch, proxy):
    for name in OTHER_PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "elsewhere.invalid")
    for ask in (lambda: list(OpenAIBackend(PROMPT, "http://captions.invalid/v1", "tiny", patience=0.1).answer(jobs())),
                lambda: served_model("http://captions.invalid/v1", "", None)):
        with pytest.raises(UserError, match="proxy.*http_proxy=") as caught:
            ask()
        assert not {"word", "wo/rd", "elsewhere"} & set(re.split(r"[:@,()= ]", str(caught.value))), caught.value


def test_a_password_in_the_address_is_not_shown(server):
    secret = base64.b64encode(b"me:word").decode()
    address = server.address.replace("//", "//me:word@")
    server.reply = lambda body: http(f"headers: Authorization: Basic {secret}", "500 X")
    (result,) = OpenAIBackend(PROMPT, address, "tiny", max_attempts=1).answer(jobs())
    assert result.error == "status 500: headers: Authorization: Basic ***"
    with pytest.raises(UserError, match="127.0.0.1:9/v1: no answer") as caught:
        list(OpenAIBackend(PROMPT, "http://me:word@127.0.0.1:9/v1", "tiny", patience=0.1).answer(jobs()))
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("key, repeated", [("sk/a+b=", "sk%2Fa%2Bb%3D"), ("sk/a+b=", "sk\\/a+b="), ("sk/a+b=", "sk%2fa%2bb%3d")])
def test_the_key_is_hidden_in_other_spellings(server, key, repeated):
    server.reply = lambda body: http(f'{{"error": {{"message": "sent: {repeated}"}}}}', "500 X")
    assert results(server, key=key)[0].error == "status 500: sent: ***"


@pytest.mark.parametrize("key", ["schl\xfcssel", "one\ntwo", "two words\t"])
def test_a_key_that_no_header_can_hold_is_told(server, key):
    with pytest.raises(UserError, match="key in settings.local.ini") as caught:
        results(server, key=key)
    assert key not in str(caught.value)


def test_a_bomb_takes_little_memory(server):
    server.reply = lambda body: FAULTS["a bomb"][0] + FAULTS["a bomb in a bomb"][0]
    tracemalloc.start()
    try:
        (result,) = results(server)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not result.caption and peak < 100 << 20


def test_replies_of_any_depth_are_one_faults():
    for depth in range(100, 1200, 7):
        for body in ('{"error": {"message": %s}}', '{"choices": [{"message": {"refusal": %s}}]}',
                     '{"choices": [{"message": {"tool_calls": [{"function": {"arguments": {"a": %s}}}]}}]}'):
            try:
                reply = read_reply(200, {}, body % ("[" * depth + "]" * depth), "server")
            except ImageFault:
                continue
            with pytest.raises(InvalidAnswer):
                read_answer(reply.text, PROMPT, RECORD)


def test_a_deep_answer_to_a_question_in_text_is_refused(server):
    deep = '{"eye": null, "stated_lesions": ' + "[" * 700 + "]" * 700 + "}"
    server.reply = lambda body: http(chat({"content": deep}))
    backend = OpenAIBackend(TextPrompt("", 500, read_facts), server.address, "tiny", max_attempts=1)
    (result,) = backend.answer([TextJob("drusen")])
    assert "nested too deep" in result.error and not result.caption


@pytest.mark.parametrize("odd", ["garbage", "{}", '{"eye": 7}', "[]"])
def test_facts_in_the_journal_that_do_not_fit_are_asked_again(server, tmp_path, odd):
    captions = pd.DataFrame({"image_id": ["a"], "caption": ["right eye with drusen"]})
    facts = json.dumps(asdict(extract_facts(captions.caption[0])))
    server.reply = lambda body: http(chat({"content": facts}))
    backend = OpenAIBackend(TextPrompt("", 500, read_facts), server.address, "tiny", setting="captions.facts_model")
    first = model_facts(captions, backend, tmp_path)
    (row,) = read_journal(tmp_path)
    (tmp_path / "00000.jsonl").write_text(json.dumps(row | {"answer": odd}) + "\n")
    assert model_facts(captions, backend, tmp_path) == first and len(server.asked) == 2
    assert first["a"].eye == "OD" and first["a"].stated_lesions == ("drusen",)


def test_verdicts_in_the_journal_that_do_not_fit_are_asked_again(server, tmp_path):
    server.reply = lambda body: http(chat({"content": "yes"}))
    backend = OpenAIBackend(TextPrompt("", 8, read_verdict, likely=20), server.address, "tiny", setting="purify.llm")
    assert llm_scores(backend, ["a caption"], [RECORD], journal=tmp_path).tolist() == [1.0]
    (row,) = read_journal(tmp_path)
    for k, odd in enumerate(["garbage", "nan", "7", "-1"]):
        (tmp_path / "00000.jsonl").write_text(json.dumps(row | {"answer": odd}) + "\n")
        assert llm_scores(backend, ["a caption"], [RECORD], journal=tmp_path).tolist() == [1.0] and len(server.asked) == k + 2


@pytest.mark.parametrize("text, first, verdict", [
    ("yes, it seems </think> no", {"yes": -0.1}, "0"), ("yes", {"yes": float("nan"), "no": -50.0}, "1"), ("Yes.", {}, "1"),
    ("<think>yes", {}, None), ("yes", {"yes": -0.1, "no": float("-inf")}, "1.000000")])
def test_verdicts_of_models_that_think(text, first, verdict):
    top = [{"token": token, "logprob": chance} for token, chance in first.items()]
    choice = {"message": {"content": text}, "logprobs": {"content": [{"top_logprobs": top}]}}
    reply = read_reply(200, {}, json.dumps({"choices": [choice]}), "server")
    if verdict is None:
        with pytest.raises(InvalidAnswer):
            read_verdict(reply)
    else:
        assert read_verdict(reply) == verdict


def test_a_cut_answer_names_a_setting_only_where_it_helps(server):
    server.reply = lambda body: http(chat({"content": "{"}, "length", {"completion_tokens": 500}))
    (result,) = OpenAIBackend(TextPrompt("", 500, read_facts), server.address, "tiny", max_attempts=1).answer([TextJob("drusen")])
    assert result.error == "cut at 500 tokens (finish_reason length)"


@pytest.mark.parametrize("proxy", ["socks://127.0.0.1:7890/", "socks5://me:word@127.0.0.1:1080"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch, proxy):
    monkeypatch.setenv("all_proxy", proxy)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="proxy of the environment cannot be used .*all_proxy=.*7890|1080") as caught:
        list(OpenAIBackend(PROMPT, "http://captions.invalid/v1", "tiny").answer(jobs()))
    assert "word" not in str(caught.value)


DRAFT, FINAL = answer("right eye, a first guess that will be thrown away"), answer()
TAKEN = [f"<think>{DRAFT}</think>{FINAL}", f"Draft: {DRAFT} No.\n</think>\n{FINAL}", f"<unused94>thought\n{DRAFT}<unused95>{FINAL}",
         f"[THINK]{DRAFT}[/THINK]{FINAL}", f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{FINAL}",
         f"analysisHm {DRAFT}assistantfinal{FINAL}", f"<|channel>thought\n{DRAFT}<channel|>{FINAL}", f"<|thinking_start|>{DRAFT}<|thinking_end|>{FINAL}",
         f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>{FINAL}",
         f'<think time="3">{DRAFT}</think>{FINAL}', f"{DRAFT}\nBetter:\n{FINAL}", f"<think>{DRAFT}</think><think>{DRAFT}</think>{FINAL} Done.", f"```json\n{FINAL}\n```"]
REFUSED = [f"<think>Draft: {DRAFT} No, that is wrong", f"<unused94>thought {DRAFT}", f"[THINK]{DRAFT}", f"{DRAFT} No: {FINAL[:-9]}", f"{FINAL}</think>",
           f"analysisHm {DRAFT} but", f"<|channel>thought\n{DRAFT}", f"<scratchpad>{DRAFT}", f'<think time="3">{DRAFT}', f"<|inner_prefix|>{DRAFT}", f"<|thinking_start|>{DRAFT}",
           f'{{"thinking": {DRAFT}}}', f'{{"draft": {DRAFT}}}',
           answer("\uff1d1+1 " + CAPTION), answer(CAPTION + " " + "e\u0301\u0302\u0303" * 100), answer(CAPTION + " " + "a-" * 400),
           "<think>" * 14_000 + DRAFT, '{"a":' * 20_000 + "1" + "}" * 20_000, '{"a":' * 20_000, "{" * 300_000, "x" * 500_000,
           answer("=1+1 " + CAPTION), answer(CAPTION + " " + "a" * 90_000), answer(CAPTION + " " + "a" * 41), answer("")]


@pytest.mark.parametrize("text", TAKEN, ids=range(len(TAKEN)))
def test_the_last_complete_answer_counts(text):
    assert read_answer(text, PROMPT, RECORD).caption == CAPTION


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_answer_is_refused_at_once(text):
    start = time.process_time()
    with pytest.raises(InvalidAnswer):
        read_answer(text, PROMPT, RECORD)
    assert time.process_time() - start < 5  # seconds of work; it was minutes where the work grew with the square


@pytest.mark.parametrize("hidden", ["\x00", "\x9b31m", "\u202e", "\u200b", "\U000e0041", "\ud83d", "\ue000"])
def test_hidden_characters_are_dropped(hidden):
    caption = read_answer(answer(CAPTION.replace("and", f"{hidden} and")), PROMPT, RECORD).caption
    assert caption == CAPTION.replace("and", "31m and") if hidden.endswith("31m") else caption == CAPTION


ODD_ROWS = [{"key": "K", "caption": "x"}, {"key": ["K"], "error": ""}, {"error": "", "caption": 7}, {"caption": "x", "error": "", "seconds": "x"},
            {"caption": "x", "error": "", "seen": "{broken"}, {"caption": "", "error": ""}, {"caption": "x", "error": "y"}, {"caption": "x", "error": None},
            {"caption": "x", "error": "", "attempts": 1e400}, {"caption": "x", "error": "", "prompt_tokens": 10 ** 30}, {"caption": "x", "error": "", "image_id": "eye-9"},
            {"score": 2}, {"score": float("nan")}, {"answer": 3}, [], None, 7, "text"]


@pytest.mark.parametrize("odd", ODD_ROWS, ids=range(len(ODD_ROWS)))
def test_rows_that_do_not_fit_are_asked_again(server, tmp_path, odd):
    data_set(tmp_path / "data", 2)
    expected = caption_all(server, tmp_path)
    file = tmp_path / "journal/00000.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    odd = rows[0] | odd if isinstance(odd, dict) and "score" not in odd and "answer" not in odd and len(odd) != 2 or isinstance(odd, dict) and "error" in odd else odd
    file.write_text("\n".join(json.dumps(row) for row in (odd, rows[1])) + "\n")
    table = caption_all(server, tmp_path)
    assert len(server.asked) == 3 and table.caption.tolist() == expected.caption.tolist() and table.image_id.tolist() == ["eye-0", "eye-1"]


@pytest.mark.parametrize("code, opens", [("EWOULDBLOCK", False), ("EACCES", False), ("ENOSYS", True), ("ENOLCK", True), ("EOPNOTSUPP", True)])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys, code, opens):
    import errno
    import fcntl

    def flock(file, how):
        raise OSError(getattr(errno, code), "as told")
    monkeypatch.setattr(fcntl, "flock", flock)
    if opens:
        Journal(tmp_path)
        assert "no locks" in capsys.readouterr().out
    else:
        with pytest.raises(UserError, match="another process"):
            Journal(tmp_path)


def test_room_and_further_fields_are_sent_and_named(server):
    roomy = load_prompt("v1", "short", max_tokens=4000)
    assert roomy.max_tokens == 4000 and roomy.hash != PROMPT.hash
    backend = OpenAIBackend(roomy, server.address, "tiny", extra={"chat_template_kwargs": {"enable_thinking": False}})
    assert [result.caption for result in backend.answer(jobs())] == [CAPTION]
    assert server.asked[0]["max_tokens"] == 4000 and server.asked[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert backend.prompt_hash != OpenAIBackend(roomy, server.address, "tiny").prompt_hash
    assert "SECRET" not in repr(Settings(caption_key="SECRET"))


def test_a_journal_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "00000.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left.*make room"):
        with Journal(tmp_path) as journal:
            journal.add({"key": "a", "answer": "b"})
    (tmp_path / "00001.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        Journal(tmp_path, 1)


@pytest.mark.parametrize("name", ["model", "messages", "stream", "n"])
def test_further_fields_are_not_those_of_the_program(name):
    section = load_params().captions
    with pytest.raises(ValueError, match=f"'{name}' is not for you to set"):
        CaptionsSection(**section.model_dump() | {"extra": {name: 1}})
    assert CaptionsSection(**section.model_dump() | {"extra": {"top_p": 1}}).extra == {"top_p": 1}
