#!/usr/bin/env python3
"""Makes a data-to-text set of the E2E type: a restaurant's attributes, then a sentence or two that say them.

    name[Blue Lantern], food[Thai], area[by the river] ->|| Blue Lantern serves Thai food by the river.

usage: make_dataset.py DIRECTORY [--patterns prose|advert] [--train N] [--valid N] [--seed n]
Writes DIRECTORY/train.txt and DIRECTORY/valid.txt, for `mpilora tokenize --format e2e`. The same seed gives the same files; no restaurant of valid.txt
occurs in train.txt with the same attributes. `prose` describes, `advert` speaks to the guest: two tasks on the same attributes.
"""

import argparse
import os
import random

FIRST = "Blue Golden Silver Old Little Green Red Royal Quiet Crooked Wild Hungry Merry Copper Northern Velvet".split()
SECOND = "Lantern Anchor Olive Garden Kettle Heron Orchard Compass Bridge Fig Harbour Sparrow Mill Spoon Crown Willow".split()
LANDMARKS = [f"the {x}" for x in ("old station", "city library", "market hall", "clock tower", "opera", "town museum", "ferry pier", "botanic garden")]
VALUES = {
    "type": ["pub", "restaurant", "coffee shop", "bistro", "tavern", "tea room"],
    "food": ["Thai", "Italian", "French", "Indian", "Japanese", "Greek", "Mexican", "English", "Turkish", "Korean"],
    "price": ["low", "moderate", "high"],
    "rating": ["one star", "three stars", "four stars", "five stars"],
    "area": ["by the river", "in the city centre", "in the old town", "on the hill"],
    "families": ["yes", "no"],
    "near": LANDMARKS,
}

# How each attribute can be said. {…} stands for values; {It} for a way to name the place again.
PROSE = {
    "price": {
        "low": ["{It} is cheap", "Its prices are low", "A meal costs little there"],
        "moderate": ["{It} has moderate prices", "Its prices are fair", "A meal is moderately priced"],
        "high": ["{It} is expensive", "Its prices are high", "A meal costs a lot there"],
    },
    "rating": ["Guests give it {rating}", "{It} is rated {rating}", "Its rating is {rating}"],
    "families": {
        "yes": ["Children are welcome", "{It} is good for families", "Families like it"],
        "no": ["{It} is not for children", "Children are not welcome", "It is meant for adults"],
    },
    "near": ["It lies near {near}", "You find it close to {near}", "{Near} is not far away"],
}
PROSE_OPENINGS = [
    "{name} is {a_type}{with_food}{area}",
    "{name}{comma_area} is {a_type}{with_food}",
    "There is {a_type} called {name}{with_food}{area}",
    "{Area_comma}{name} is {a_type}{with_food}",
    "{Food_first} at {name}, {a_type}{area}",
]
ADVERT = {
    "price": {
        "low": ["your purse will thank you", "nobody here pays much"],
        "moderate": ["you pay a fair price", "the bill stays friendly"],
        "high": ["bring a full purse", "luxury has its price"],
    },
    "rating": ["our guests say: {rating}", "{rating} from people like you"],
    "families": {"yes": ["bring the children", "your family is welcome"], "no": ["leave the children at home", "an evening for adults"]},
    "near": ["just walk over from {near}", "look for us near {near}"],
}
ADVERT_OPENINGS = [
    "Hungry{for_food}? Come to {name}{area}, your {type}",
    "Visit {name}, the {type}{area}{with_food}",
    "Why cook? {name} is your {type}{area}{with_food}",
    "Tonight at {name}{area}: a {type} made for you{with_food}",
]


def draw_restaurant(source):
    """A name, a type, and two to five more attributes."""
    more = [key for key in VALUES if key != "type"]
    chosen = source.sample(more, source.randint(2, 5))
    place = {"name": f"{source.choice(FIRST)} {source.choice(SECOND)}"}
    for key, values in VALUES.items():
        if key == "type" or key in chosen:
            place[key] = source.choice(values)
    return place


def meaning(place):
    return ", ".join(f"{key}[{value}]" for key, value in place.items())


def capital(text):
    return text[:1].upper() + text[1:]


def opening_words(place):
    """What the openings' {…} stand for; an attribute that is missing leaves nothing behind."""
    food, area = place.get("food"), place.get("area")
    article = "an" if place["type"][0] in "aeiou" else "a"
    return {
        "name": place["name"],
        "type": place["type"],
        "a_type": f"{article} {place['type']}",
        "with_food": f" with {food} food" if food else "",
        "for_food": f" for {food} food" if food else "",
        "Food_first": f"Enjoy {food} food" if food else "Have a meal",
        "area": f" {area}" if area else "",
        "comma_area": f", {area}," if area else "",
        "Area_comma": f"{capital(area)}, " if area else "",
    }


def details(source, place, forms):
    """One clause for each attribute that the opening did not say, in any order."""
    clauses = []
    for key in source.sample(list(forms), len(forms)):
        if key in place:
            choices = forms[key][place[key]] if isinstance(forms[key], dict) else forms[key]
            value = place[key]
            clauses.append(source.choice(choices).format(**{key: value, capital(key): capital(value), "It": source.choice(["It", "The place"])}))
    return clauses


def lower_first(text):
    return text[:1].lower() + text[1:]


def prose(source, place):
    text = source.choice(PROSE_OPENINGS).format(**opening_words(place)) + "."
    clauses = details(source, place, PROSE)
    while clauses:
        clause = clauses.pop(0)
        if clauses and source.random() < 0.5:
            clause += f", and {lower_first(clauses.pop(0))}"
        text += f" {clause}."
    return text


def advert(source, place):
    text = source.choice(ADVERT_OPENINGS).format(**opening_words(place)) + "!"
    clauses = details(source, place, ADVERT)
    if clauses:
        text += " " + capital("; ".join(clauses)) + "!"
    return text


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--patterns", choices=["prose", "advert"], default="prose")
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--valid", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    source = random.Random(options.seed)
    say = {"prose": prose, "advert": advert}[options.patterns]
    lines, seen = [], set()
    while len(lines) < options.train + options.valid:
        place = draw_restaurant(source)
        if meaning(place) not in seen:
            seen.add(meaning(place))
            lines.append(f"{meaning(place)} ->|| {say(source, place)}")
    os.makedirs(options.directory, exist_ok=True)
    write_lines(os.path.join(options.directory, "valid.txt"), lines[: options.valid])
    write_lines(os.path.join(options.directory, "train.txt"), lines[options.valid :])


main()
