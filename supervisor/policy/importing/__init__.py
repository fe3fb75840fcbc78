"""Configurations of other agent gateways as a policy of ours: what their keys are here, and what is not carried."""
