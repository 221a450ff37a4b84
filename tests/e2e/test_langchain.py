"""langchain-openai against a live gateway."""

from typing import Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.e2e.gateway_process import GatewayProcess


class Ticket(BaseModel):
    """A triaged ticket."""

    category: str


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}"


@pytest.fixture
def chat(gateway: GatewayProcess) -> ChatOpenAI:
    return ChatOpenAI(base_url=gateway.base_url, api_key="unused", model="auto", max_retries=0)  # type: ignore[arg-type]


def test_it_invokes_and_streams(chat: ChatOpenAI) -> None:
    messages = [SystemMessage("You repeat."), HumanMessage("repeat after me")]
    whole = chat.invoke(messages).content
    assert "repeat after me" in str(whole)
    assert "".join(str(chunk.content) for chunk in chat.stream(messages)) == whole


def test_it_binds_tools_and_takes_their_results(chat: ChatOpenAI) -> None:
    bound = chat.bind_tools([get_weather], tool_choice="required")
    question = HumanMessage("How is the weather in Ulm?")
    asked: Any = bound.invoke([question])
    call = asked.tool_calls[0]
    assert call["name"] == "get_weather" and isinstance(call["args"]["city"], str)
    answered = chat.invoke([question, asked, ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])])
    assert answered.content


def test_it_fills_a_structured_output(chat: ChatOpenAI) -> None:
    assert isinstance(chat.with_structured_output(Ticket).invoke("my card is gone"), Ticket)
