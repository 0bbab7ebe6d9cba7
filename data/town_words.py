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


# A name is a start, at times a middle, and an ending, which carries the pronoun for everyone alike.
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

# Each trade with the places where such a person may work.
TRADES = {trade: tuple(f"the {place}" for place in places) for trade, places in sections("""
[baker]
bakery / inn / tea house
[miller]
windmill / market hall / bakery
[blacksmith]
smithy / boatyard / quarry
[potter]
pottery / market hall / school
[weaver]
weaving house / market hall / theatre
[tailor]
weaving house / theatre / market hall
[cobbler]
market hall / toy shop / weaving house
[carpenter]
sawmill / boatyard / theatre
[gardener]
greenhouse / orchard / town hall
[beekeeper]
orchard / greenhouse / candle works
[sailor]
harbour / ferry landing / lighthouse
[boatbuilder]
boatyard / harbour / sawmill
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
[shepherd]
dairy / orchard / weaving house
[toymaker]
toy shop / sawmill / market hall
[candlemaker]
candle works / lighthouse / theatre
[florist]
greenhouse / market hall / tea house
[mason]
quarry / clock tower / town hall
[inventor]
clock tower / smithy / windmill
[astronomer]
lighthouse / clock tower / school
[glassblower]
pottery / candle works / lighthouse
[storyteller]
library / inn / tea house
[barber]
market hall / town hall / harbour
""").items()}

# What else is true of a person: one value of each list.
VALUES = sections("""
[street]
Mill Lane / Clover Street / Lantern Row / Harbour Street / Bell Alley / Orchard Road / Fiddler's Yard /
Bridge Street / Candle Court / Willow Walk / Goose Green / Market Square / Hill Road / Pump Lane /
Swan Terrace / Chestnut Avenue
[colour]
white / black / grey / brown / golden / spotted / striped / russet
[animal]
cat / dog / goat / hen / duck / goose / pony / donkey / rabbit / owl / parrot / tortoise / hedgehog / pig /
lamb / crow
[petname]
Pepper / Biscuit / Button / Pickle / Thimble / Bramble / Nutmeg / Pudding / Whistle / Clover / Marble /
Acorn / Ribbon / Dumpling / Pebble / Cricket / Ginger / Tumble / Waffle / Sprout / Mittens / Pumpkin /
Noodle / Barley / Cobweb / Treacle / Poppy / Domino / Captain / Duchess / Teacup / Bumble / Fidget /
Parsley / Lantern / Snowdrop / Toffee / Marigold / Turnip / Bluebell / Crumb / Doodle / Velvet / Hazel /
Jasper / Mustard / Truffle / Willow
[food]
plum cake / apple pie / leek soup / honey bread / fish stew / rice pudding / cheese toast / mushroom pie /
onion tart / carrot cake / barley broth / gingerbread / lemon curd / pea soup / blackberry jam /
walnut bread / pumpkin soup / cherry tart / potato salad / oat porridge / bean stew / rhubarb crumble /
egg custard / buttered corn
[hobby]
flying kites / collecting shells / climbing trees / telling riddles / skipping stones / pressing flowers /
building model boats / watching the stars / drawing maps / growing roses / knitting scarves /
playing chess / carving spoons / counting clouds / feeding the swans / walking the hills /
swimming in the river / writing poems / juggling / folding paper birds / painting pebbles /
solving puzzles / hunting for fossils / dancing
[instrument]
the fiddle / the flute / the drum / the harp / the trumpet / the banjo / the accordion / the bells /
the tin whistle / the cello / the clarinet / the tuba
[dream]
riding in a balloon / sailing round the world / meeting a whale / sleeping in a castle / writing a book /
winning the boat race / finding a treasure / crossing the mountains / seeing the northern lights /
building a flying machine / opening a little theatre / discovering a comet / living in a tree house /
riding an elephant / planting a forest / learning every song there is / keeping a dragon /
walking to the end of the road / catching a falling star / inventing a new colour
""")
VALUES["trade"] = tuple(TRADES)
VALUES["work"] = tuple(sorted({place for places in TRADES.values() for place in places}))
OTHER_TOWNS = ("Overhill", "Netherby", "Saltmarsh", "Longford", "Applewick", "Stonebridge", "Fernside",
               "Crosswater", "Hollowell", "Dunmere", "Brackley")

SEASONS = ("spring", "summer", "autumn", "winter")
MONTHS = {"spring": ("March", "April", "May"), "summer": ("June", "July", "August"),
          "autumn": ("September", "October", "November"), "winter": ("December", "January", "February")}
