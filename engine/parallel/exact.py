"""What the exact sequence-parallel methods share: the prompt in even blocks, all rows causal."""

from dataclasses import dataclass

from spava_app.engine.layout import Layout, PromptShape, shard
from spava_app.engine.parallel.base import Method
from spava_app.errors import InvalidInput


@dataclass(frozen=True)
class ExactMethod(Method):
    """Exact causal attention; the question is an ordinary part of the last block."""

    def _layout(self, prompt: PromptShape, world_size: int) -> Layout:
        if prompt.extra_len:
            fix = f"method {self.name} computes no extra query: use star, apb or spava"
            raise InvalidInput("extra_len", prompt.extra_len, fix)
        owners = self._owners(world_size)
        return Layout(
            num_tokens=prompt.num_tokens,
            world_size=world_size,
            blocks=tuple(shard(prompt.num_tokens, j, len(owners)) for j in range(len(owners))),
            owners=owners,
            query_owner=owners[-1],
        )

    def _owners(self, world_size: int) -> tuple[int, ...]:
        """The rank of each block; by default one block per rank."""
        return tuple(range(world_size))
