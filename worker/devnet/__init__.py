"""A local orchestrator on a local chain, for the demo and the tests.

``start_devnet()`` starts both in child processes. What is a stand-in and what is real is said in the contracts
(``contracts/*.sol``) and in ``verify.py`` and ``session_table.py``.
"""
