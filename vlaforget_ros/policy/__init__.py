"""What a policy is: model, action codec, checkpoints, and the engine that serves it.

``config`` and ``model`` (with ``vit``) are the network in upstream OpenVLA's layout, ``actions``, ``prompt`` and
``images`` turn robot data into tokens and back, ``checkpoint`` reads and writes weights, ``policy`` puts them
together. ``forms`` says how a network gives an action: tokens by ``decoding`` (on ``llama``), a chunk by ``oft``.
``slots`` and ``engine`` serve a policy with adapters; ``cloning`` trains one.
"""
