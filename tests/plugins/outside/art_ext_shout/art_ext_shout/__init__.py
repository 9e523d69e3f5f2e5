"""A stranger's plugin: one trick that gives every attack more steps, whoever set it."""

from dataclasses import replace

from art_ext.api import Count, Ingredient, Paper, Plan, hookimpl


class Shout(Ingredient):
    """Multiplies the steps of the training attack."""

    name = "shout"
    paper = Paper("Louder Is Better", "Nobody", "nowhere", 2024)

    times: Count = 3

    def apply(self, plan: Plan) -> Plan:
        return plan.alter(self, "attack", lambda attack: replace(attack, steps=attack.steps * self.times))


@hookimpl
def art_ext_ingredients() -> list[type[Ingredient]]:
    return [Shout]
