"""The search: Optuna suggests configurations, Ray Tune runs them as trials, and Optuna's storage
remembers how they ended.
"""
