"""What vLLM's server offers beyond what the gateway asks of it: fields of requests, and routes.

Those of vLLM 0.32 (its protocol.py files and routers), of older versions, of development mode, and some of SGLang's.
"""

MARK = "smuggled"
NUMBER = 98765

_WORDS = """
chat_template prompt_embeds guided_json guided_regex guided_grammar guided_choice guided_decoding_backend
guided_whitespace_pattern structural_tag request_id session_id cache_salt regex ebnf lora_path adapter_name
truncation_side suffix service_tier reasoning_effort prompt_cache_key safety_identifier previous_response_id routing_key
prompt
"""
_OBJECTS = """
chat_template_kwargs mm_processor_kwargs media_io_kwargs lora_request kv_transfer_params ec_transfer_params vllm_xargs
structured_outputs logits_processors repetition_detection mm_payload logit_bias extra_body extra_args watermarking
prediction
"""
_NUMBERS = """
priority min_tokens top_k prompt_logprobs truncate_prompt_tokens thinking_token_budget length_penalty
repetition_penalty min_p stream_interval routed_experts_prompt_start data_parallel_rank
"""
_SWITCHES = """
echo use_beam_search ignore_eos add_special_tokens skip_special_tokens store spaces_between_special_tokens
include_stop_str_in_output add_generation_prompt continue_final_message include_reasoning return_tokens_as_token_ids
return_token_ids return_prompt_text return_token_offsets return_mm_kwargs early_stopping
"""
_ROUTES = """
/v1/load_lora_adapter /v1/unload_lora_adapter /v1/completions /v1/embeddings /v1/responses /v1/responses/x/cancel
/v1/chat/completions/batch /v1/chat/completions/render /v1/completions/render /v1/messages /v1/realtime /v1/score
/v1/rerank /v1/audio/transcriptions /v1/messages/count_tokens /tokenize /detokenize /tokenizer_info /pooling /classify
/score /rerank /invocations /ping /version /server_info /load /health /reset_prefix_cache /reset_mm_cache
/reset_encoder_cache /sleep /wake_up /is_sleeping /pause /resume /is_paused /collective_rpc /update_weights
/init_weight_transfer_engine /start_weight_update /finish_weight_update /weight_info /scale_elastic_ep
/is_scaling_elastic_ep /abort_requests /inference/v1/generate /inference/v1/abort_requests /start_profile /stop_profile
/release_kv_cache_memory /kv_event_sources /fault_tolerance/apply /cohere/v2/chat /docs /openapi.json /redoc /static
"""

FIELDS: dict[str, object] = {
    **dict.fromkeys(_WORDS.split(), MARK),
    **{name: {MARK: MARK} for name in _OBJECTS.split()},
    **dict.fromkeys(_NUMBERS.split(), NUMBER),
    **dict.fromkeys(_SWITCHES.split(), True),
    **{name: [MARK] for name in ("documents", "bad_words", "extra_headers")},
    **{name: [NUMBER] for name in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids", "input_ids")},
}

ROUTES = _ROUTES.split()

_LOAD = "v1/load_lora_adapter"
TRICKS = (
    f"//{_LOAD}",
    f"/{_LOAD}/",
    f"/{_LOAD}.",
    f"/./{_LOAD}",
    f"/%2e%2e/{_LOAD}",
    f"/v1/%2e%2e/{_LOAD}",
    f"/v1/v1/{_LOAD}",
    f"/proxy/{_LOAD}",
    f"/vllm/{_LOAD}",
    f"/backends/{_LOAD}",
    f"/v1/chat/completions/../../{_LOAD}",
    f"http://127.0.0.1/{_LOAD}",
    "/v1/models/../load_lora_adapter",
    "/v1/models/%2e%2e/load_lora_adapter",
    "/v1/models/..%2fload_lora_adapter",
    "/v1/plans/..%2f..%2fload_lora_adapter",
    "/v1/chat/completions/../load_lora_adapter",
    "/v1/chat/completions/%2e%2e/%2e%2e/load_lora_adapter",
    "/v1/chat/completions%2f..%2fload_lora_adapter",
    "/v1%2fload_lora_adapter",
    "/v1/%6coad_lora_adapter",
    "/v1/load_lora_adapter%00",
    "/v1/load_lora_adapter%20",
    "/v1/load_lora_adapter;x=1",
    "/v1/load_lora_adapter?x=1",
    "/V1/LOAD_LORA_ADAPTER",
    "/v1\\load_lora_adapter",
)
