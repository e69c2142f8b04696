"""The ``session-executor`` command. Modules are by noun; heavy imports stay inside commands, so that help is quick."""
