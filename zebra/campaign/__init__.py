"""Campaigns: which parameters are unsafe when nodes disagree about them.

pre-run (who reads what) -> plan (what to try) -> pool (one run clears many) -> control and confirm (is it really
the mixture?) -> requires, direction -> verdicts. Source: Ma and others, EuroSys 2021 (ZebraConf).
"""
