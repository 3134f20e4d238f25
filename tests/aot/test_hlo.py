"""The reader of compiled text, on a small program by hand and on one that XLA made here."""

import jax
import jax.numpy as jnp
import pytest

from jax_itm.aot import hlo

TEXT = """HloModule jit_f, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%inside (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %twice = f32[8,4]{1,0} add(%p, %p)
}

%condition (state: (s32[], f32[8,4])) -> pred[] {
  %state = (s32[], f32[8,4]{1,0}) parameter(0)
  %turn = s32[] get-tuple-element(%state), index=0
  %bound = s32[] constant(5)
  ROOT %less = pred[] compare(%turn, %bound), direction=LT
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %state = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %work = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%inside, metadata={op_name="jit(f)/jvp(losses)/add"}, \
backend_config={"estimated_cycles":"100"}
  %sent = f32[8,4]{1,0} collective-permute(%work), channel_id=1, source_target_pairs={{0,1},{1,0}}
  ROOT %next = (s32[], f32[8,4]{1,0}) tuple(%turn, %sent)
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %first = f32[8,4]{1,0} fusion(%x), kind=kLoop, calls=%inside, metadata={op_name="jit(f)/encoders/add"}, \
backend_config={"estimated_cycles":"7"}
  %loop = (s32[], f32[8,4]{1,0}) while(%start), condition=%condition, body=%body
  %started = (f32[8,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%first), dimensions={0}
  ROOT %out = f32[8,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_a_loop_counts_as_often_as_it_turns():
    program = hlo.parse(TEXT)
    assert hlo.cycles_by(program, {"loss": "losses", "encoders": "encoders"}) == {
        "loss": 500,
        "encoders": 7,
        "other": 0,
    }
    gathered, permuted = hlo.collectives(program, [(0, 0), (2, 1)])
    assert gathered == hlo.Collective("all-gather", 1, 16 * 4 * 4, 0, 1)
    assert permuted == hlo.Collective("collective-permute", 5, 5 * 8 * 4 * 4, 3, 0)


def test_a_program_that_was_compiled_here_is_read():
    def f(x):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.sin(x) @ x, x)

    text = jax.jit(f).lower(jax.ShapeDtypeStruct((16, 16), jnp.float32)).compile().as_text()
    program = hlo.parse(text)
    opcodes = [instruction.opcode for instruction, times in hlo.executed(program) for _ in range(times)]
    assert opcodes.count("while") == 1 and "" not in opcodes
    products = [op for op in opcodes if op in ("dot", "custom-call", "fusion", "call")]
    assert len(products) >= 3


@pytest.mark.parametrize(
    ("type_", "expected"),
    [("bf16[2,3]{1,0}", [(6, 12)]), ("(pred[4]{0}, f32[])", [(4, 4), (1, 4)]), ("u32[]{:S(2)}", [(1, 4)])],
)
def test_sizes_of_types(type_, expected):
    assert hlo.arrays(type_) == expected
