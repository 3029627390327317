"""Each thing that the engine does beyond the plain loop can be switched off, and changes nothing."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf import Rank1
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.options import FIELDS, DecodingOptions
from tests.decoding.oracle import SHAPES, assert_same

SWITCHES = ("speculate", "share_prefixes", "graphs", "kernels", "fuse", "overlap", "pack")
SLOW = "RANK1_SLOW" in os.environ
ALL_OFF = DecodingOptions(**dict.fromkeys(SWITCHES, False))
EACH_OFF = {name: DecodingOptions(**{name: False}) for name in SWITCHES}
CHANGED = {
    "batch_size": DecodingOptions(batch_size=2),
    "prefill_chunk": DecodingOptions(prefill_chunk=9),
    "small pages": DecodingOptions(page_size=16),
    "large pages": DecodingOptions(page_size=256),
    "kv_cache_tokens": DecodingOptions(kv_cache_tokens=512),
    "step_overhead_tokens": DecodingOptions(step_overhead_tokens=300),
    "overlap": DecodingOptions(overlap=True, speculate=False),
    "reproducible": DecodingOptions(reproducible=True),
    "all off": ALL_OFF,
}


ALIKE_HERE = {"graphs", "overlap", "pack"}
"""What a decoder on a CPU has off already, or the loader of the model does."""


CASES = [
    pytest.param(shape, options, id=f"{shape}-{name}")
    for name, options in (EACH_OFF | CHANGED).items()
    for shape in (
        SHAPES if name in EACH_OFF.keys() - ALIKE_HERE or name == "all off" or SLOW else ("qwen2", "mistral-sliding")
    )
]


@pytest.mark.parametrize(("shape", "options"), CASES)
def test_no_option_changes_a_chain(case, shape: str, options: DecodingOptions):
    folder, oracle, requests, expected = case(shape)
    decoder = oracle.decoder(folder, **{name: getattr(options, name) for name in FIELDS})
    assert_same(list(decoder.run(requests)), expected)


def test_a_step_without_sharing_computes_every_prompt(case):
    folder, oracle, requests, _ = case("qwen2")
    shared, alone = oracle.decoder(folder), oracle.decoder(folder, share_prefixes=False)
    for decoder in (shared, alone):
        list(decoder.run(requests))
    n_prompt = sum(len(request.prompt) for request in requests)
    assert shared.stats.prefill_tokens < n_prompt <= alone.stats.prefill_tokens


def test_what_is_in_force_leaves_nothing_open(case):
    folder, oracle, _, _ = case("qwen2")
    options = oracle.decoder(folder).options
    assert None not in [getattr(options, name) for name in FIELDS]
    assert not options.graphs, "there is no CUDA device"
    assert not oracle.decoder(folder, reproducible=True, kernels=False).options.speculate


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("kv_cache_tokens=4096,batch_size=1", "batch_size, kv_cache_tokens"),
        ("page_size=32", "page_size"),
        ("gpu_memory_utilization=0.5,speculate=off", "gpu_memory_utilization"),
        ("overlap=on", "overlap"),
    ],
)
def test_the_plain_loop_refuses_what_it_does_not_have(given: str, named: str):
    with pytest.raises(ValueError, match=f"engine='plain' .* has no {named}; leave out engine, or these"):
        Rank1(engine="plain", decoding=given)


@pytest.mark.parametrize("given", [DecodingOptions(), ALL_OFF, DecodingOptions(reproducible=True)])
def test_what_the_plain_loop_does_anyway_is_taken(given: DecodingOptions):
    assert given.for_engine("plain") == replace(given, pack=False, kernels=False)
    assert given.for_engine("paged") == given


def test_old_names_still_work_and_say_what_they_became(case):
    folder, oracle, _, _ = case("qwen2")
    known = oracle.decoder(folder)
    with pytest.warns(DeprecationWarning, match="is now") as warned:
        decoder = Decoder(
            known.model, known.rules, true_id=1, false_id=2, max_prefill_tokens=7, spare_tokens=0, run_ahead=True
        )
    assert (decoder.options.prefill_chunk, decoder.options.speculate, decoder.options.overlap) == (7, False, True)
    said = [str(warning.message) for warning in warned]
    assert "Decoder(max_prefill_tokens=...) is now Decoder(decoding=DecodingOptions(prefill_chunk=7))" in said
    with pytest.raises(TypeError, match="unexpected keyword argument 'spare'"):
        Decoder(known.model, known.rules, true_id=1, false_id=2, spare=1)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", DecodingOptions()),
        ("speculate=off,graphs=off", DecodingOptions(speculate=False, graphs=False)),
        (" batch-size = 32 , overlap=auto", DecodingOptions(batch_size=32)),
        ("gpu_memory_utilization=0.5,reproducible=on", DecodingOptions(gpu_memory_utilization=0.5, reproducible=True)),
        ("kv_cache_tokens=auto", DecodingOptions()),
    ],
)
def test_options_are_read_from_text(text: str, options: DecodingOptions):
    assert DecodingOptions.parse(text) == options


@given(
    st.builds(
        DecodingOptions,
        batch_size=st.none() | st.integers(1, 10**6),
        page_size=st.sampled_from([16, 64, 1024]),
        gpu_memory_utilization=st.floats(0.01, 1),
        overlap=st.none() | st.booleans(),
        speculate=st.booleans(),
    )
)
def test_options_are_written_as_they_are_read(options: DecodingOptions):
    assert DecodingOptions.parse(str(options)) == options


def test_whole_numbers_of_numpy_become_pythons():
    options = DecodingOptions(page_size=np.int64(128), batch_size=np.int64(4))
    assert json.loads(json.dumps([options.page_size, options.batch_size])) == [128, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("specualte=off", "is no decoding option; write NAME=VALUE, with one of batch_size, "),
        ("speculation=off", r"; did you mean 'speculate'\?$"),
        ("speculate", "is no decoding option"),
        ("speculate=maybe", "write on or off"),
        ("speculate=auto", "write on or off"),
        ("batch_size=many", "write a number or auto"),
        ("batch_size=0", "must be a whole number of at least 1, not 0"),
        ("page_size=48", "must be a power of two and at least 16, not 48"),
        ("page_size=8", "must be a power of two and at least 16, not 8"),
        ("gpu_memory_utilization=1.5", "must be above 0 and at most 1"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        DecodingOptions.parse(text)


@pytest.mark.parametrize("value", ["off", "on", 0, 1, None])
def test_a_switch_is_true_or_false(value: object):
    for name in FIELDS:
        if isinstance(getattr(DecodingOptions(), name), bool):
            with pytest.raises(TypeError, match=f"{name} must be True or False, not {value!r}"):
                DecodingOptions(**{name: value})


def test_options_take_what_python_takes_for_an_index():
    numpy = pytest.importorskip("numpy")
    assert DecodingOptions(batch_size=numpy.int64(8)) == DecodingOptions(batch_size=8)
    assert type(replace(DecodingOptions(), batch_size=numpy.int64(8)).batch_size) is int
    with pytest.raises(ValueError, match="whole number"):
        DecodingOptions(batch_size=True)
