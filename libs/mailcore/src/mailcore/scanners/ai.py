"""A second opinion by a language model, over any server that speaks OpenAI's chat completions.

It is asked about mail that the other scanners are unsure of, and sees no more of it than its scope says (scanners.question). What
it was shown stands in its finding, whatever it answers. One question, no repetition: who does not answer in time has no opinion.
"""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import SecretStr

from mailcore.kit.errors import Refused, Unavailable
from mailcore.kit.guard import Answer, GuardedClient
from mailcore.scanners import question
from mailcore.scanners.base import Facts, Finding, Kind, Verdict, nameless, text
from mailcore.scanners.question import Opinion, Question, Scope

BASE_URL = "https://api.openai.com/v1"
MODEL = "gpt-5.4-nano"
SECONDS = 15.0
MAX_ANSWER = 256 * 1024
NO_KEY = "local-no-auth-required"
"""What servers of one's own are shown, which ask for no key."""


class Ai:
    kind = Kind.OPINION
    max_bytes = 0

    def __init__(
        self,
        client: GuardedClient,
        *,
        api_key: SecretStr | None = None,
        base_url: str = "",
        model: str = MODEL,
        scope: Scope = "headers",
        max_characters: int = question.MAX_CHARACTERS,
        seconds: float = SECONDS,
        name: str = "ai",
    ) -> None:
        """`base_url` empty: OpenAI's, which needs a key. Raises Refused."""
        key = api_key.get_secret_value().strip() if api_key is not None else ""
        if not key and not base_url:
            raise Refused(
                "A second opinion needs POSTROOM_SCANNERS__AI_API_KEY, or in __AI_BASE_URL a server that asks for none."
            )
        if not (key.isascii() and key.isprintable()):
            raise Refused("POSTROOM_SCANNERS__AI_API_KEY holds characters that no key has.")
        self.name = name
        self.seconds = seconds
        self._client = client
        self._key = SecretStr(key or NO_KEY)
        self._url = (base_url or BASE_URL).rstrip("/") + "/chat/completions"
        self._model = model
        self._scope = scope
        self._most = max_characters

    async def scan(self, raw: bytes, facts: Facts) -> Finding:
        """What it was shown stands in the finding even where no opinion comes of it."""
        asked = question.ask(raw, facts, self._scope, most=self._most)
        try:
            opinion = question.read(await self._ask(asked))
        except (Unavailable, Refused) as error:
            words = nameless(error.public, self._url, "the model's server")
            return self._finding(asked, Verdict.UNAVAILABLE, words)
        if opinion is None:
            return self._finding(asked, Verdict.UNAVAILABLE, "It answered neither spam nor not spam.")
        if opinion.spam:
            return self._finding(asked, Verdict.SPAM, f"It says spam: {opinion.reason}.", opinion)
        if asked.pleads:
            words = "It says not spam, which does not count: the mail speaks to its judge."
            return self._finding(asked, Verdict.UNSURE, words, more=("pleads",))
        return self._finding(asked, Verdict.CLEAN, "It says not spam.", opinion)

    async def close(self) -> None:
        await self._client.close()

    async def _ask(self, asked: Question) -> str:
        """Raises Unavailable, Blocked."""
        messages = [{"role": "system", "content": asked.system}, {"role": "user", "content": asked.user}]
        answer = await self._client.request(
            "POST",
            self._url,
            headers={
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Authorization": f"Bearer {self._key.get_secret_value()}",
            },
            content=orjson.dumps({"model": self._model, "temperature": 0, "messages": messages}),
            deadline=self.seconds,
            max_body=MAX_ANSWER,
        )
        if answer.status != 200 or answer.truncated:
            raise Unavailable(f"The model's server answered {answer.status}.")
        return _content(answer)

    def _finding(
        self, asked: Question, verdict: Verdict, words: str, opinion: Opinion | None = None, more: tuple[str, ...] = ()
    ) -> Finding:
        shown = f"{text(self._model, 60)} was shown {_SHOWN[asked.scope]}: {asked.characters} characters."
        return Finding(
            self.name,
            verdict,
            score=None if opinion is None or opinion.score is None else float(opinion.score),
            tags=(f"scope={asked.scope}", f"characters={asked.characters}", f"model={text(self._model, 60)}", *more),
            detail=f"{words} {shown}",
            reason=opinion.reason if opinion is not None else "",
        )


_SHOWN = {
    "headers": "the header",
    "attachments": "the header and the names of the files",
    "full_email": "the header and the text",
}


def _content(answer: Answer) -> str:
    """Raises Unavailable."""
    try:
        message: Any = orjson.loads(answer.body)["choices"][0]["message"]["content"]
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
        raise Unavailable("The model's server answered with something that is no chat completion.") from None
    if isinstance(message, list):  # some servers give parts
        message = "".join(str(part.get("text") or "") for part in message if isinstance(part, dict))
    if not isinstance(message, str):
        raise Unavailable("The model answered with no text.")
    return message
