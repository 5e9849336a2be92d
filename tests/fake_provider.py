"""A provider of language models on loopback, as real client libraries call it.

It speaks OpenAI's completions, chat completions and responses and Anthropic's messages, whole and
streamed.
What it says is a `Reply`, or a function from a request's body to one.
"""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, ClassVar, TypeAlias

Body: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """One answer. `finish` is "stop", "length" or None; a tool call is (name, arguments).

    `cut` breaks off a stream: "end" leaves its last events out, "reset" drops the connection.
    `reasoning` is the summary of an item of reasoning, in responses only.
    """

    text: str = ""
    tools: tuple[tuple[str, Body], ...] = ()
    reasoning: str = ""
    finish: str | None = "stop"
    status: int = 200
    cut: str = ""


class Provider:
    """Counts the requests that reach it, and keeps their bodies."""

    def __init__(self) -> None:
        self.answer: Callable[[Body], Reply] = lambda body: Reply(f"answer {len(self.bodies)}")
        self.bodies: list[Body] = []
        self.numbers = count(1)
        handler = type("Handler", (_Handler,), {"provider": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        # it looks so often whether it is to end: the default would cost each test half a second
        serve = partial(self._server.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, daemon=True).start()

    @property
    def calls(self) -> int:
        return len(self.bodies)

    def says(self, *replies: Reply | str) -> None:
        """Give these in turn, the last one ever after."""
        script = [Reply(one) if isinstance(one, str) else one for one in replies]
        self.answer = lambda body: script.pop(0) if len(script) > 1 else script[0]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error."""


class _Handler(BaseHTTPRequestHandler):
    provider: Provider
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.provider.bodies.append(body)
        reply = self.provider.answer(body)
        if reply.status != 200:
            error = {"type": "some_error", "message": "no luck", "code": "unlucky"}
            self._send_json({"type": "error", "error": error}, reply.status)
            return
        path = self.path.partition("?")[0]  # Anthropic's client asks for betas there
        protocol = next(one for end, one in _PROTOCOLS.items() if path.endswith(end))
        number = next(self.provider.numbers)
        if body.get("stream"):
            self._send_events(protocol.events(body, reply, number), reply)
        else:
            self._send_json(protocol.whole(body, reply, number))

    def _send_json(self, value: Body, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")  # a client may be used on several event loops
        self.end_headers()
        self.wfile.write(data)

    def _send_events(self, events: Iterator[tuple[str, Any]], reply: Reply) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        for name, value in events:
            data = value if isinstance(value, str) else json.dumps(value)
            event = (f"event: {name}\n" if name else "") + f"data: {data}\n\n"
            self.wfile.write(f"{len(event.encode()):x}\r\n{event}\r\n".encode())
        if reply.cut != "reset":  # else the chunked body never ends
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True


def _words(text: str) -> list[str]:
    return [word + " " for word in text.split()] if text else []


class Chat:
    """POST /chat/completions"""

    @staticmethod
    def whole(body: Body, reply: Reply, number: int) -> Body:
        message: Body = {"role": "assistant", "content": reply.text or None}
        if reply.tools:
            message["tool_calls"] = Chat._calls(reply, number)
        return {
            **Chat._head(body, number, "chat.completion"),
            "choices": [{"index": 0, "message": message, "finish_reason": Chat._finish(reply)}],
            "usage": Chat._USAGE,
        }

    @staticmethod
    def events(body: Body, reply: Reply, number: int) -> Iterator[tuple[str, Any]]:
        head = Chat._head(body, number, "chat.completion.chunk")

        def chunk(delta: Body, finish: str | None = None) -> tuple[str, Any]:
            return "", {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

        yield chunk({"role": "assistant", "content": ""})
        for word in _words(reply.text):
            yield chunk({"content": word})
        for index, call in enumerate(Chat._calls(reply, number)):
            yield chunk({"tool_calls": [{"index": index, **call}]})
        if reply.cut:
            return
        if reply.finish is not None:
            yield chunk({}, Chat._finish(reply))
        if (body.get("stream_options") or {}).get("include_usage"):
            yield "", {**head, "choices": [], "usage": Chat._USAGE}
        yield "", "[DONE]"

    _USAGE: ClassVar[Body] = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}

    @staticmethod
    def _finish(reply: Reply) -> str | None:
        return "tool_calls" if reply.tools and reply.finish == "stop" else reply.finish

    @staticmethod
    def _head(body: Body, number: int, kind: str) -> Body:
        return {"id": f"chatcmpl-{number}", "object": kind, "created": 1, "model": body["model"]}

    @staticmethod
    def _calls(reply: Reply, number: int) -> list[Body]:
        return [
            {
                "id": f"call_{number}_{i}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for i, (name, arguments) in enumerate(reply.tools)
        ]


class Completions:
    """POST /completions: a text model, which answers each prompt of a batch."""

    @staticmethod
    def whole(body: Body, reply: Reply, number: int) -> Body:
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        return {
            **Chat._head(body, number, "text_completion"),
            "choices": [Completions._choice(i, reply.text, reply) for i in range(len(prompts))],
            "usage": Chat._USAGE,
        }

    @staticmethod
    def events(body: Body, reply: Reply, number: int) -> Iterator[tuple[str, Any]]:
        head = Chat._head(body, number, "text_completion")
        unfinished = Reply(finish=None)
        for word in _words(reply.text):
            yield "", {**head, "choices": [Completions._choice(0, word, unfinished)]}
        if reply.cut:
            return
        if reply.finish is not None:
            yield "", {**head, "choices": [Completions._choice(0, "", reply)]}
        yield "", "[DONE]"

    @staticmethod
    def _choice(index: int, text: str, reply: Reply) -> Body:
        return {"index": index, "text": text, "finish_reason": reply.finish, "logprobs": None}


class Responses:
    """POST /responses"""

    @staticmethod
    def whole(body: Body, reply: Reply, number: int) -> Body:
        output: list[Body] = []
        if reply.reasoning:
            summary = [{"type": "summary_text", "text": reply.reasoning}]
            output.append({"type": "reasoning", "id": f"rs_{number}", "summary": summary})
        if reply.text:
            text = {"type": "output_text", "text": reply.text, "annotations": []}
            output.append({**Responses._message(number), "content": [text]})
        for i, (name, arguments) in enumerate(reply.tools):
            call = {"type": "function_call", "id": f"fc_{number}_{i}", "status": "completed"}
            call |= {"call_id": f"call_{number}_{i}", "name": name}
            output.append({**call, "arguments": json.dumps(arguments)})
        status = {"stop": "completed", "length": "incomplete", None: "in_progress"}[reply.finish]
        return {
            "id": f"resp_{number}",
            "object": "response",
            "created_at": 1,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"}
            if status == "incomplete"
            else None,
            "error": None,
            "instructions": None,
            "metadata": {},
            "model": body["model"],
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": {
                "input_tokens": 5,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": 3,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 8,
            },
        }

    @staticmethod
    def events(body: Body, reply: Reply, number: int) -> Iterator[tuple[str, Any]]:
        whole, order = Responses.whole(body, reply, number), count()

        def event(kind: str, **more: Any) -> tuple[str, Any]:
            kind = f"response.{kind}"
            return kind, {"type": kind, "sequence_number": next(order), **more}

        started = {**whole, "status": "in_progress", "output": [], "usage": None}
        yield event("created", response=started)
        for index, item in enumerate(whole["output"]):
            where = {"output_index": index}
            if item["type"] == "function_call":
                yield event("output_item.added", **where, item={**item, "arguments": ""})
                at = {"item_id": item["id"], **where}
                yield event("function_call_arguments.delta", **at, delta=item["arguments"])
                done = {"name": item["name"], "arguments": item["arguments"]}
                yield event("function_call_arguments.done", **at, **done)
                yield event("output_item.done", **where, item=item)
                continue
            if item["type"] == "reasoning":
                yield event("output_item.added", **where, item={**item, "summary": []})
                yield event("output_item.done", **where, item=item)
                continue
            at = {"item_id": item["id"], **where, "content_index": 0}
            empty = {"type": "output_text", "text": "", "annotations": []}
            yield event("output_item.added", **where, item={**item, "content": []})
            yield event("content_part.added", **at, part=empty)
            for word in _words(reply.text):
                yield event("output_text.delta", **at, delta=word, logprobs=[])
            if reply.cut:
                return
            yield event("output_text.done", **at, text=reply.text, logprobs=[])
            yield event("content_part.done", **at, part=item["content"][0])
            yield event("output_item.done", **where, item=item)
        if reply.finish == "stop":
            yield event("completed", response=whole)
        elif reply.finish == "length":
            yield event("incomplete", response=whole)

    @staticmethod
    def _message(number: int) -> Body:
        head = {"type": "message", "id": f"msg_{number}", "role": "assistant"}
        return {**head, "status": "completed"}


class Messages:
    """POST /messages"""

    _REASONS: ClassVar[Body] = {"stop": "end_turn", "length": "max_tokens", "": None}

    @staticmethod
    def whole(body: Body, reply: Reply, number: int) -> Body:
        content: list[Body] = [{"type": "text", "text": reply.text}] if reply.text else []
        for i, (name, arguments) in enumerate(reply.tools):
            call = {"type": "tool_use", "id": f"toolu_{number}_{i}", "name": name}
            content.append({**call, "input": arguments})
        reason = (
            "tool_use" if reply.tools and reply.finish else Messages._REASONS[reply.finish or ""]
        )
        return {
            "id": f"msg_{number}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {"input_tokens": 5, "output_tokens": 3},
        }

    @staticmethod
    def events(body: Body, reply: Reply, number: int) -> Iterator[tuple[str, Any]]:
        whole = Messages.whole(body, reply, number)

        def event(kind: str, **more: Any) -> tuple[str, Any]:
            return kind, {"type": kind, **more}

        yield event("message_start", message={**whole, "content": [], "stop_reason": None})
        for index, block in enumerate(whole["content"]):
            if block["type"] == "tool_use":
                yield event(
                    "content_block_start", index=index, content_block={**block, "input": {}}
                )
                delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
                yield event("content_block_delta", index=index, delta=delta)
            else:
                empty = {"type": "text", "text": ""}
                yield event("content_block_start", index=index, content_block=empty)
                for word in _words(reply.text):
                    delta = {"type": "text_delta", "text": word}
                    yield event("content_block_delta", index=index, delta=delta)
            if reply.cut:
                return
            yield event("content_block_stop", index=index)
        if whole["stop_reason"] is not None:
            ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
            yield event("message_delta", delta=ended, usage={"output_tokens": 3})
        yield event("message_stop")


_PROTOCOLS: dict[str, Any] = {
    "/chat/completions": Chat,
    "/completions": Completions,
    "/responses": Responses,
    "/messages": Messages,
}
