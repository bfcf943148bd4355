"""Prefill methods: how the rows of a prompt are spread over ranks and which keys they see."""
