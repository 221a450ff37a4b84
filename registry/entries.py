"""What an operator writes in registry.yaml, as frozen values. Knows nothing of files or of live health.

Prices are US dollars per million tokens, times are milliseconds unless a name says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from .stages import Stage

SafetyGrade = Literal["A", "B", "C", "D"]
BackendKind = Literal["embedded", "vllm", "openai", "echo"]

Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*\Z")]
Expandable = Annotated[str, Meta(extra={"environment": True})]
"""Text in which `${NAME}` and `${NAME:-default}` stand for environment variables."""
Positive = Annotated[int, Meta(ge=1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Millis = Annotated[float, Meta(gt=0)]
Price = Annotated[float, Meta(ge=0)]


class Deadlines(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long to wait for a backend in each phase."""

    connect_ms: Millis = 2_000
    first_token_ms: Millis = 30_000
    between_tokens_ms: Millis = 15_000
    total_ms: Millis = 120_000


class ReplicaEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of several servers behind a backend; all serve the same models."""

    url: Expandable
    """Base URL up to and including `/v1`; `${NAME:-default}` allowed."""
    drain: bool = False
    """True: it gets no new calls, and those under way end."""


class BackendEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A server that speaks the OpenAI API."""

    name: Name
    kind: BackendKind
    url: Expandable | None = None
    """Base URL up to and including `/v1`; `${NAME:-default}` allowed.

    Not for `embedded` (started by us) and `echo` (in process).
    """
    urls: tuple[Expandable | ReplicaEntry, ...] = ()
    """Instead of `url`: replicas that serve the same models; calls are spread over them."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the provider's key."""
    model: Expandable | None = None
    """For `embedded`: which weights the engine loads (a bundled name, a folder or an HF id); `${NAME}` allowed."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    max_connections: Positive = 256
    """At once, to each replica."""
    max_retries: Annotated[int, Meta(ge=0, le=10)] = 2
    """Tries after the first, only before the first byte, and within a retry budget of 10 % of calls."""
    breaker_failures: Positive = 5
    """Consecutive failures that open the breaker."""
    breaker_open_ms: Millis = 5_000
    max_loras: Positive = 16
    """Adapters that one batch may mix; the embedded engine loads no more than this either."""
    max_cpu_loras: Positive | None = None
    """Adapters that may be loaded at once on each replica; which ones follows demand. None: all that are wanted."""

    @property
    def replicas(self) -> tuple[ReplicaEntry, ...]:
        """The servers named by `urls`; none where there is a single `url`, or no server at all."""
        return tuple(ReplicaEntry(url=one) if isinstance(one, str) else one for one in self.urls)

    @property
    def resident_limit(self) -> int | None:
        """How many adapters may be loaded at once; None: any number."""
        if self.kind != "embedded":
            return self.max_cpu_loras
        return min(self.max_loras, self.max_cpu_loras or self.max_loras)


class Prices(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """US dollars per million tokens."""

    input_usd_per_mtok: Price = 0.0
    output_usd_per_mtok: Price = 0.0

    def cost_usd(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return what so many tokens cost; estimates need not be whole."""
        return (prompt_tokens * self.input_usd_per_mtok + completion_tokens * self.output_usd_per_mtok) / 1e6


class ModelEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model that a backend serves."""

    model_name: Name
    backend: Name
    upstream_name: Expandable | None = None
    """What the backend calls it; `model_name` when absent. `${NAME}` allowed."""
    params: Positive | None = None
    context_len: Positive = 4096
    license: str = "unknown"
    max_tokens_per_s: Annotated[float, Meta(gt=0)] = 50.0
    """Decode speed of one request; the planner's prior until live figures exist."""
    first_token_ms: Millis = 300.0
    """Time to the first token; likewise a prior."""
    prices: Prices = field(default_factory=Prices)
    supported_clusters: tuple[str, ...] = ("*",)
    """Clusters that it may answer; `*` for every one, `unknown` among them."""
    safety_grade: SafetyGrade = "C"
    eval_scores: dict[str, Fraction] = field(default_factory=dict)
    """Cluster (or `*`) to measured quality in 0..1: the prior of the planner's belief."""
    tools: bool = True
    """Whether it can be asked for tool calls."""
    response_formats: bool = True
    """Whether it accepts `response_format`."""


class TemplateEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a specialist's prompt is rendered from what varies in a call, and how its text becomes the answer."""

    prompt: str = "{input}\n"
    """`{input}` is the last user message. Rendered by the gateway and sent to `/v1/completions`."""
    answer: Literal["text", "json", "tool_call"] = "text"
    stop: tuple[str, ...] = ()
    max_tokens: Positive = 512
    """Most that it writes; a call's own limit may be lower. `/v1/completions` would else stop after 16."""
    signature: str | None = None
    """The signature it was trained for; a call with another one is not for this template."""


class CanaryEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A prompt, and the text that a loaded adapter must decode it to (greedily) before it counts as ready."""

    prompt: str
    text: str
    max_tokens: Positive = 32


class SpecialistEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base model + LoRA adapter + prompt template, for one or more clusters. Immutable, `name@digest12`."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*\Z")]
    digest: Annotated[str, Meta(pattern=r"^(sha256:)?[0-9a-f]{12,64}\Z")]
    base: Name
    """A `model_name` of this registry."""
    adapter: str
    """Folder of the PEFT adapter; relative to registry.yaml."""
    clusters: tuple[Name, ...]
    stage: Stage = "candidate"
    share: Fraction = 1.0
    """While it is a canary: the share of its clusters' calls that it may answer. Without effect in other stages."""
    standby: bool = False
    """True: stays loaded although deprecated, so that a rollback to it takes effect at once."""
    template: TemplateEntry | None = None
    """None: the call goes to `/v1/chat/completions` as it came, under the adapter's name."""
    confidence_threshold: Annotated[float, Meta(le=0)] | None = None
    """Least sum of the answer's token log-probabilities that is believed; None switches the check off."""
    safety_grade: SafetyGrade | None = None
    """The base model's when absent."""
    eval_scores: dict[str, Fraction] = field(default_factory=dict)
    prices: Prices | None = None
    canary: CanaryEntry | None = None
    """None: the adapter is ready as soon as it has decoded anything."""

    @property
    def id(self) -> str:
        """`name@digest12`."""
        return f"{self.name}@{self.digest.removeprefix('sha256:')[:12]}"


class Defaults(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What holds where a call says nothing."""

    frontier: Name
    """The `model_name` that answers what no specialist may answer; savings are measured against it."""
    max_tokens: Positive = 1024
    """Used to bound the cost of a call that sets no limit of its own."""
    aliases: dict[str, Name] = field(default_factory=dict)
    """Other names a caller may use, e.g. `gpt-4o: auto`."""


class RegistryFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of registry.yaml."""

    version: Literal[1] = 1
    defaults: Defaults
    backends: tuple[BackendEntry, ...]
    models: tuple[ModelEntry, ...]
    specialists: tuple[SpecialistEntry, ...] = ()
