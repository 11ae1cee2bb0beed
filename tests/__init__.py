"""Tests mirror the package; helpers for real servers lie beside them.

``server_user`` says as whom servers run, ``installations`` finds PostgreSQL, ``servers`` runs
it, ``load`` keeps it busy, ``digest`` says what a cluster holds.
"""
