"""The words of TinyTown: syllables of names, what a person can be, keep and like, and fillers for stories.

Every value of a relation is written once here, and no value holds another as a part (a test says so).
Entries are parted by slashes.
"""

import re


def sections(block: str) -> dict[str, tuple[str, ...]]:
    """`[name]` headings, each with the entries under it: parted by line ends or by slashes."""
    parts = re.split(r"^\[(\w+)\]\n", block.strip() + "\n", flags=re.MULTILINE)[1:]
    return {name: tuple(entry.strip() for entry in re.split(r" /\s|\n", body) if entry.strip())
            for name, body in zip(parts[::2], parts[1::2], strict=True)}


# The name of a resident is a start, at times a middle, and an ending, which carries the pronoun.
SYLLABLES = sections("""
[start]
Al / Am / An / Bar / Bel / Ben / Bo / Bri / Cal / Cor / Da / Del / Dor / El / Em / Fa / Fen / Fio / Gar /
Gil / Ha / Hel / Il / Is / Jo / Ju / Ka / Kel / La / Len / Lin / Lo / Ma / Mar / Mel / Mi / Na / Nel / Nor /
O / Pa / Per / Pol / Ra / Ren / Ro / Sa / Sel / Si / Ta / Tam / Tel / Tor / U / Va / Vel / Wen / Wil /
Ya / Yo / Zel
[middle]
la / mi / ri / no / va / be / do / li / ne / ta / lo / da
[she]
ra / na / lia / sa / bel / wyn / ta / via / rin / da / mira / ly
[he]
vin / lo / dan / to / ric / nor / mund / bert / den / fer / go / mo
[never]
Amen / Banana / Bento / Cargo / Data / Elder / Hago / Iso / Lingo / Major / Malto / Mango / Manor / Panto /
Pata / Rana / Sana / Sato / Tambert / Tango
""")

# Strangers have a given and a family name. Both are common in training, so a new combination has no
# token that training lacks, whatever the tokenizer. (Names of new syllables all had one, in a BPE
# of 10,000: names that occur in training become single tokens.)
STRANGERS = sections("""
[she]
Ada / Bettina / Cleo / Dora / Edda / Flora / Greta / Hedda / Ida / Josephine / Lotte / Martha / Nora /
Olga / Pia / Rosa / Selma / Thea / Ursula / Vera / Wilma / Yvonne / Zora / Agnes / Clara / Emma / Helga /
Irma
[he]
Axel / Boris / Casper / Dov / Emil / Felix / Gustav / Hugo / Ivo / Jonas / Karl / Leo / Max / Nils / Otto /
Paul / Quentin / Rufus / Simon / Theo / Viktor / Walter / Xaver / Yuri / Anton / Bruno / Conrad / Oscar
[family]
Ashby / Birdwell / Copper / Dusk / Elmhurst / Finch / Grubb / Hawthorn / Inkpen / Jolly / Kettle / Larkin /
Merryweather / Nettle / Oakes / Pennyworth / Quill / Rook / Sparrow / Thatcher / Underhill / Vane /
Winter / Yarrow / Applegate / Brook / Crane / Dimple / Fennel / Gander / Hopkin / Juniper / Marsh / Plumb /
Reed / Sallow / Tuttle / Wren / Bell / Frost
""")

# Each trade with the places where such a person may work.
TRADES = {trade: tuple(f"the {place}" for place in places) for trade, places in sections("""
[baker]
bakery / inn / tea house
[miller]
windmill / market hall / bakery
[blacksmith]
smithy / boatyard / clock tower
[potter]
pottery / market hall / school
[tailor]
theatre / market hall / town hall
[carpenter]
sawmill / boatyard / theatre
[gardener]
greenhouse / orchard / town hall
[beekeeper]
orchard / greenhouse / dairy
[sailor]
harbour / ferry landing / lighthouse
[teacher]
school / library / museum
[librarian]
library / school / town hall
[doctor]
infirmary / school / harbour
[nurse]
infirmary / school / town hall
[painter]
theatre / pottery / museum
[singer]
theatre / inn / tea house
[actor]
theatre / inn / school
[printer]
print shop / town hall / library
[messenger]
post office / town hall / ferry landing
[clockmaker]
clock tower / toy shop / museum
[cook]
inn / school / infirmary
[cheesemaker]
dairy / market hall / inn
[toymaker]
toy shop / sawmill / market hall
[florist]
greenhouse / market hall / tea house
[inventor]
clock tower / smithy / windmill
[astronomer]
lighthouse / clock tower / school
[glassblower]
pottery / harbour / lighthouse
""").items()}

# What else is true of a person: one value of each list.
VALUES = sections("""
[street]
Mill Lane / Clover Street / Lantern Row / Harbour Street / Bell Alley / Orchard Road / Bridge Street /
Candle Court / Willow Walk / Goose Green / Market Square / Pump Lane
[colour]
white / black / grey / brown / golden / spotted
[animal]
cat / dog / goat / hen / duck / pony / donkey / rabbit / owl / parrot / tortoise / hedgehog
[petname]
Pepper / Biscuit / Button / Pickle / Thimble / Bramble / Nutmeg / Pudding / Whistle / Clover / Marble /
Acorn / Ribbon / Dumpling / Pebble / Cricket / Tumble / Waffle / Sprout / Mittens / Pumpkin / Noodle /
Barley / Cobweb / Treacle / Domino / Captain / Duchess / Teacup / Fidget / Parsley / Snowdrop / Toffee /
Turnip / Crumb / Velvet
[food]
plum cake / apple pie / leek soup / honey bread / fish stew / rice pudding / cheese toast / onion tart /
gingerbread / lemon curd / blackberry jam / potato salad / oat porridge / rhubarb crumble / egg custard /
buttered corn
[instrument]
the fiddle / the flute / the drum / the harp / the trumpet / the banjo / the accordion / the bells /
the cello / the clarinet
""")
VALUES["trade"] = tuple(TRADES)
VALUES["work"] = tuple(sorted({place for places in TRADES.values() for place in places}))
OTHER_TOWNS = ("Overhill", "Netherby", "Saltmarsh", "Longford", "Applewick", "Stonebridge", "Fernside",
               "Crosswater", "Hollowell", "Dunmere", "Brackley")

SEASONS = ("spring", "summer", "autumn", "winter")
MONTHS = {"spring": ("March", "April", "May"), "summer": ("June", "July", "August"),
          "autumn": ("September", "October", "November"), "winter": ("December", "January", "February")}
