"""Runs that measure: the quickstart, and our step against the plain one."""
