"""Ranks that torchrun has started, on one machine or several (docs/machines.md).

environment   which process this is among those of torchrun
rendezvous    where they find each other
launcher      starts the group of workers through them
"""
