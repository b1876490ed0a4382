"""Stored points in, verdicts out: which place most likely is to blame, since when, and on what evidence.

facts -> troubles -> cases -> symptoms -> rules -> verdicts -> report

facts       points as columns: one track a flow or target, counters of agents and interfaces, events, paths
troubles    what is not as usual: one track that loses, slows down, falls silent; a host that stalls
cases       a cause with the part of the network that it would hit, and the troubles that it would explain
symptoms    what speaks for or against a case, each with a sentence
rules       the table: how much each symptom weighs for each cause
verdicts    the cases that explain all troubles best, one after the other

Pure but for `command`, which reads and prints. Points are all there is: an agent's insides are unknown here.
"""
