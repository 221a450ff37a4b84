"""Registries for tests: fakes whose model name picks their behaviour."""

ECHO = """
version: 1
defaults: {frontier: echo}
backends:
  - {name: echo, kind: echo}
models:
  - {model_name: echo, backend: echo, safety_grade: A, context_len: 32768, eval_scores: {"*": 0.95}}
  - {model_name: "echo:malformed", backend: echo, supported_clusters: []}
  - {model_name: "echo:cut", backend: echo, supported_clusters: []}
  - {model_name: "echo:down", backend: echo, supported_clusters: []}
  - {model_name: "echo:hang", backend: echo, supported_clusters: []}
  - {model_name: "echo:truncate", backend: echo, supported_clusters: []}
"""

CHEAP_FIRST = """
version: 1
defaults: {{frontier: frontier}}
backends:
  - {{name: echo, kind: echo}}
models:
  - model_name: cheap
    upstream_name: "{behaviour}"
    backend: echo
    safety_grade: B
    prices: {{input_usd_per_mtok: 0.01, output_usd_per_mtok: 0.02}}
    eval_scores: {{"*": 0.95}}
  - model_name: frontier
    upstream_name: echo
    backend: echo
    safety_grade: A
    prices: {{input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}}
    eval_scores: {{"*": 0.97}}
"""


def cheap_first(behaviour: str) -> str:
    """A cheap model that behaves so, before a frontier that answers."""
    return CHEAP_FIRST.format(behaviour=behaviour)
