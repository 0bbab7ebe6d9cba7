"""What a slot without a dot may become: {when}, {odd}, {goods}, the weather of a season."""

from data.town_words import OTHER_TOWNS, SEASONS, sections

PARTS = sections("""
[odd_kind]
old / rusty / wooden / tiny / blue / red / green / yellow / crooked / broken / dusty / very large /
left-handed / borrowed / forgotten / silver / velvet / painted / squeaky / perfectly good / lopsided /
purple / patched / wobbly / striped / bottomless / gleaming / mossy / tangled / creaking / enormous /
chipped / speckled / handmade / muddy / scarlet / ticking / polished / folding / knitted / moth-eaten /
upside-down
[odd_thing]
boot / key / bucket / umbrella / teapot / kite / slipper / drumstick / birdcage / ladder / map /
button / feather / basket / doorbell / anchor / bicycle bell / snow globe / waistcoat / pocket watch /
horseshoe / wheelbarrow / egg cup / bottle / spyglass / doll's house / candlestick / top hat /
suitcase / rocking chair / mitten / compass / telescope / hourglass / rake / saddle / thermometer /
music box / weathercock / sundial / magnet / walking stick / paddle / hammock / footstool / saucepan /
cuckoo clock / typewriter / butterfly net / sledge / trapdoor / bookcase / scarecrow / rucksack /
corkscrew
[goods_kind]
fresh / small / large / painted / second-hand / shiny / sturdy / cheerful / polished / crinkled /
enormous
[goods_thing]
turnips / candles / clay pots / apples / buttons / ribbons / lanterns / baskets / spoons / pears /
onions / feathers / paper flowers / wooden ducks / eggs / bells / brushes / pumpkins / hats / cups /
marbles / cushions / radishes / walnuts / chestnuts / pencils / postcards / mugs / carrots / cabbages /
scissors / whisks / corks / hazelnuts / bowls / envelopes / slippers / kettles / broomsticks / tulips /
jugs / pillows
[time_kind]
fine / grey / quiet / windy / bright / busy / sleepy / cool / perfectly ordinary / misty / drowsy /
breezy / crisp / thundery / peaceful / frosty / drizzly
[time]
morning / afternoon / evening / market day / Monday / Tuesday / Wednesday / Thursday / Friday / Saturday /
Sunday
[when]
early in the morning / one day, quite early, / late one evening / after lunch / before breakfast /
when the bell had rung twelve, / just after sunrise / on the way home from work, /
between two showers of rain, / while the kettle was boiling, / when the fog had lifted, /
in the middle of the night, / halfway through the week, / as the shutters were going up,
""")

FILLERS = sections("""
[town]
Tinytown
[day]
Monday / Tuesday / Wednesday / Thursday / Friday / Saturday / Sunday
[number]
two / three / four / five / six / seven / eight / nine
[soon]
at last / before long / by and by / in the end / after an hour / a little later / after all that /
when they had almost given up, / just before supper / all of a sudden /
by the time the lamps were lit, / without any warning, / when nobody expected it, /
to their great relief,
[busy]
sweeping the floor / counting nails / looking for a pencil / drinking tea / polishing a spoon /
mending a chair / writing a long list / talking to a sparrow / washing the windows / sorting buttons /
hanging up a picture / humming a tune / chasing a wasp / stacking boxes / warming both hands on a cup /
oiling a hinge / peeling an apple / tying up parcels / sharpening pencils / darning a sock /
folding blankets / watering the geraniums / winding a ball of wool / shelling peas /
scrubbing the step / studying the almanac / untangling a fishing line / gluing a broken jug /
dusting the shelves / sealing an envelope
[hobby]
flying kites / collecting shells / climbing trees / telling riddles / skipping stones /
pressing flowers / building model boats / watching the stars / drawing maps / growing roses /
knitting scarves / playing chess / carving spoons / counting clouds / feeding the swans /
walking the hills / swimming in the river / writing poems / juggling / folding paper birds /
painting pebbles / solving puzzles / hunting for fossils / dancing / catching minnows /
writing letters / learning magic tricks / sketching insects / embroidering handkerchiefs /
tracking badgers / reading ghost stories / bowling hoops / making puppets / pickling cucumbers /
walking on stilts / whittling sticks / studying the tides / yodelling
[dream]
riding in a balloon / sailing round the world / meeting a whale / sleeping in a castle /
writing a book / winning the boat race / finding a treasure / crossing the mountains /
seeing the northern lights / building a flying machine / opening a little theatre /
discovering a comet / living in a tree house / riding an elephant / planting a forest /
learning every song there is / keeping a dragon / walking to the end of the road /
catching a falling star / inventing a new colour / digging a tunnel to the sea /
crossing the desert on a camel / visiting the moon / living among penguins / designing a fountain /
ruling a small island / composing an opera / exploring a jungle / becoming invisible /
chatting with dolphins / training a troupe of acrobats / painting a rainbow / conducting an orchestra /
earning a medal / climbing a volcano / unearthing a mammoth
[answered]
answered / said / replied / declared / whispered
[weather]
fine / windy / splendid / foggy / wet / strange / lovely / chilly / dreadful / glorious / changeable /
mild / dull / thundery / remarkable
[cheered]
cheered / clapped / shouted for joy / stamped and whistled / threw their hats in the air / whooped /
waved their handkerchiefs / danced in a ring / hugged one another
[laughed]
laughed / giggled / chuckled / snorted / laughed out loud / grinned / chortled / howled with laughter
[spring]
The first swallows were back / The apple trees were in flower / Rain and sun took turns /
The ice had gone from the river / Every garden smelled of wet earth / The lambs were out on the hill /
A warm wind blew up from the river / Doors stood open again after the long cold /
Cuckoos called across the meadows / Puddles shone on every path / Blossom drifted through the lanes /
The hedges were full of nests / Tadpoles wriggled in the ponds
[summer]
The sun stood high over the roofs / The river was as warm as soup / The bees were busy in the clover /
It was too hot to wear shoes / The evenings were long and light / The cherries were ripe /
Swifts screamed round the clock tower / The dust lay white on the road /
Thunder grumbled behind the hills / Dragonflies hung above the reeds / The haystacks smelled sweet /
Even the shadows looked for shade / Grasshoppers fiddled in the meadows
[autumn]
The leaves were turning / Mist lay on the river / The apples were in and the nuts were falling /
Smoke rose straight from every chimney / The geese flew over the town / The days were growing short /
The wind played with the leaves in the square / It smelled of mushrooms and wood /
Spiders had hung their webs on every gate / Conkers dropped on the path /
The fields lay bare and brown / Rain drummed on the tiles / Bonfires glowed at dusk
[winter]
Snow lay on every roof / The pump in the square was frozen / Icicles hung from the eaves /
It was dark before tea / The river wore a thin coat of ice / Frost had drawn ferns on the glass /
The stoves were warm and the windows were white / The town was as quiet as wool /
Robins hopped on the window sills / The puddles had turned to glass / Sledges stood by every door /
Stars glittered like broken ice / Footprints crossed the white fields
""")


def article(noun: str) -> str:
    """The noun with its article: "owl" gives "an owl"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


FILLERS["away"] = OTHER_TOWNS
FILLERS["odd"] = tuple(
    article(f"{kind} {thing}") for kind in PARTS["odd_kind"] for thing in PARTS["odd_thing"])
FILLERS["goods"] = PARTS["goods_thing"] + tuple(
    f"{kind} {thing}" for kind in PARTS["goods_kind"] for thing in PARTS["goods_thing"])
FILLERS["when"] = PARTS["when"] + tuple(
    f"one {kind} {time}" for kind in PARTS["time_kind"] for time in PARTS["time"])
SKY = {season: FILLERS[season] for season in SEASONS}
