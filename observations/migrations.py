"""The store's schema, as numbered migrations and the views over it.

A migration is never edited once released: add the next one. DDL runs only when a loader starts, in one transaction,
and a CHECKPOINT follows at once. The tables have neither keys nor indexes: field failures of DuckDB follow index work
before an unclean stop, and the loader keeps ids unique by itself. Knows SQL; nothing of segments or files.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from registry.errors import StorageError

if TYPE_CHECKING:
    import duckdb

MIGRATIONS: tuple[tuple[str, str], ...] = (
    (
        "calls",
        """
        CREATE TABLE slm_observation_raw (
            id VARCHAR, at_ms BIGINT, v INTEGER, route VARCHAR, tenant VARCHAR, key_id VARCHAR, end_user VARCHAR,
            streamed BOOLEAN, requested_model VARCHAR, signature VARCHAR, prompt_hash VARCHAR, cluster VARCHAR,
            cluster_source VARCHAR, task_type VARCHAR, hint_agrees BOOLEAN, content_mode VARCHAR, messages VARCHAR,
            answer_text VARCHAR, answer_tool_calls VARCHAR, redactions VARCHAR, withheld VARCHAR, metadata VARCHAR,
            plan VARCHAR, attempts VARCHAR, served_by VARCHAR, frontier VARCHAR, outcome VARCHAR, error_code VARCHAR,
            finish_reason VARCHAR, prompt_tokens BIGINT, completion_tokens BIGINT, cost_usd DOUBLE,
            frontier_cost_usd DOUBLE, latency_ms DOUBLE, first_token_ms DOUBLE, decision_ms DOUBLE, escalated BOOLEAN,
            cache_hit BOOLEAN
        );
        CREATE TABLE loaded_segments (name VARCHAR, digest VARCHAR, records BIGINT, loaded_at_ms BIGINT);
        """,
    ),
    (
        "signatures and feedback",
        """
        CREATE TABLE slm_signature (
            id VARCHAR, at_ms BIGINT, signature VARCHAR, tenant VARCHAR, v INTEGER, content_mode VARCHAR,
            system VARCHAR, tools VARCHAR, response_format VARCHAR, tool_names VARCHAR
        );
        CREATE TABLE slm_feedback (
            id VARCHAR, call_id VARCHAR, at_ms BIGINT, v INTEGER, tenant VARCHAR, outcome VARCHAR, score DOUBLE,
            comment VARCHAR, correction VARCHAR, source VARCHAR
        );
        """,
    ),
    (
        "catalogs and stage moves",
        """
        CREATE TABLE catalog_snapshot (id VARCHAR, at_ms BIGINT, digest VARCHAR, v INTEGER, models VARCHAR);
        CREATE TABLE promotion_audit_log (
            id VARCHAR, at_ms BIGINT, specialist VARCHAR, before VARCHAR, after VARCHAR, v INTEGER, actor VARCHAR,
            reason VARCHAR, receipt VARCHAR
        );
        """,
    ),
    (
        "shadow answers",
        """
        CREATE TABLE slm_shadow (
            id VARCHAR, at_ms BIGINT, call_id VARCHAR, specialist VARCHAR, v INTEGER, tenant VARCHAR, cluster VARCHAR,
            outcome VARCHAR, reason VARCHAR, agrees BOOLEAN, confidence DOUBLE, threshold DOUBLE, prompt_tokens BIGINT,
            completion_tokens BIGINT, cost_usd DOUBLE, latency_ms DOUBLE, reference VARCHAR, reference_verified BOOLEAN,
            reference_cost_usd DOUBLE, reference_latency_ms DOUBLE, content_mode VARCHAR, answer_text VARCHAR,
            answer_tool_calls VARCHAR
        );
        """,
    ),
    (
        "replayed shadow answers and people's word on them",
        """
        ALTER TABLE slm_shadow ADD COLUMN source VARCHAR;
        ALTER TABLE slm_shadow ADD COLUMN "right" BOOLEAN;
        ALTER TABLE slm_shadow ADD COLUMN reference_right BOOLEAN;
        """,
    ),
    (
        "erasures",
        """
        CREATE TABLE slm_erasure (id VARCHAR, at_ms BIGINT, call_id VARCHAR, v INTEGER, tenant VARCHAR);
        ALTER TABLE slm_observation_raw ADD COLUMN erased_at_ms BIGINT;
        """,
    ),
)

VIEWS: dict[str, str] = {
    # The latest word on each question: arg_max passes over what an event did not say.
    "slm_feedback_latest": """
        SELECT call_id, tenant, arg_max(outcome, at_ms) AS outcome, arg_max(score, at_ms) AS score,
               arg_max(correction, at_ms) AS correction, count(*) AS events
        FROM slm_feedback GROUP BY call_id, tenant
    """,
    # Fit to learn from: content kept after redaction, and a cluster found. The loader has kept ids unique.
    "slm_observation_curated": """
        SELECT call.*, said.outcome AS feedback_outcome, said.score AS feedback_score,
               said.correction AS feedback_correction,
               CASE WHEN said.outcome IS NOT NULL THEN said.outcome = 'success'
                    WHEN call.outcome = 'verified' THEN true
                    WHEN call.outcome = 'failed' THEN false END AS success,
               CASE WHEN said.outcome IS NOT NULL THEN 'feedback'
                    WHEN call.outcome IN ('verified', 'failed') THEN 'verifier' END AS success_source
        FROM slm_observation_raw AS call
        LEFT JOIN slm_feedback_latest AS said ON said.call_id = call.id AND said.tenant = call.tenant
        WHERE call.messages IS NOT NULL AND call.withheld = '' AND call.cluster <> 'unknown'
    """,
    "model_metrics_timeseries": """
        SELECT minute_ms, make_timestamp(minute_ms * 1000) AS minute, attempt.candidate AS model, cluster,
               count(*) AS calls,
               count(*) FILTER (attempt.outcome = 'verified') AS verified,
               count(*) FILTER (attempt.outcome = 'malformed') AS malformed,
               count(*) FILTER (attempt.outcome = 'unsure') AS unsure,
               count(*) FILTER (attempt.outcome = 'failed') AS failed,
               count(*) FILTER (attempt.outcome = 'timed_out') AS timed_out,
               quantile_cont(coalesce(attempt.latency_ms, 0), 0.5) AS latency_p50_ms,
               quantile_cont(coalesce(attempt.latency_ms, 0), 0.95) AS latency_p95_ms,
               sum(coalesce(attempt.cost_usd, 0)) AS cost_usd,
               sum(coalesce(attempt.prompt_tokens, 0))::BIGINT AS prompt_tokens,
               sum(coalesce(attempt.completion_tokens, 0))::BIGINT AS completion_tokens
        FROM (
            SELECT at_ms // 60000 * 60000 AS minute_ms, cluster, unnest(from_json(attempts, '[{
                "candidate": "VARCHAR", "outcome": "VARCHAR", "prompt_tokens": "BIGINT",
                "completion_tokens": "BIGINT", "cost_usd": "DOUBLE", "latency_ms": "DOUBLE"
            }]')) AS attempt
            FROM slm_observation_raw
        ) GROUP BY ALL
    """,
    # Who answers which cluster now: the last 24 hours before the newest call.
    "cluster_model_assignment": """
        SELECT cluster, served_by AS model, count(*) AS calls,
               count(*) / sum(count(*)) OVER (PARTITION BY cluster) AS share,
               min(at_ms) AS first_at_ms, max(at_ms) AS last_at_ms
        FROM slm_observation_raw
        WHERE served_by <> '' AND at_ms > (SELECT max(at_ms) - 86400000 FROM slm_observation_raw)
        GROUP BY cluster, served_by
    """,
    "model_registry": """
        SELECT digest, at_ms, coalesce(entry->>'id', entry->>'model_name', entry->>'name') AS name, entry
        FROM (SELECT digest, at_ms, unnest(from_json(models, '["JSON"]')) AS entry FROM catalog_snapshot)
    """,
}


def migrate(connection: duckdb.DuckDBPyConnection, *, to: int = len(MIGRATIONS)) -> list[int]:
    """Bring the schema to version `to`, then CHECKPOINT. Returns the versions applied now.

    Raises StorageError when the store is newer than this program.
    """
    found = version_of(connection)
    if found > len(MIGRATIONS):
        raise StorageError(
            f"The store has schema version {found}; this program knows {len(MIGRATIONS)}. Use a newer journeyman."
        )
    applied = list(range(found + 1, to + 1))
    if applied:
        connection.execute("BEGIN")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER, name VARCHAR, applied_at_ms BIGINT)"
        )
        for version in applied:
            _apply(connection, version)
        if to == len(MIGRATIONS):
            for name, query in VIEWS.items():
                connection.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")
        connection.execute("COMMIT")
        connection.execute("CHECKPOINT")
    return applied


def version_of(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the schema's version; 0 for an empty store."""
    row = connection.execute(
        "SELECT count(*) FROM information_schema.tables WHERE table_name = 'schema_version'"
    ).fetchone()
    if row is None or row[0] == 0:
        return 0
    row = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    return int(row[0]) if row else 0


def _apply(connection: duckdb.DuckDBPyConnection, version: int) -> None:
    name, statements = MIGRATIONS[version - 1]
    connection.execute(statements)
    connection.execute("INSERT INTO schema_version VALUES (?, ?, ?)", [version, name, int(time.time() * 1000)])
