"""Serves a web page on which one drops a photograph and walks through the network, from the image to the classes.

    python explore.py                    the newest run, else the pretrained network, at http://127.0.0.1:8000
    python explore.py --index            makes the index of training images, as a button of the page does

The page shows predictions, Grad-CAM and occlusion, the most active channels of each stage and what contributes to them,
and what changes where channels are switched off or a region is covered. It listens on this machine alone and requests
nothing from any other.
"""

from dataclasses import dataclass

from runtime.console import parse_arguments, run_script
from runtime.errors import InputError
from runtime.options import RunOptions, require_range


@dataclass
class Args(RunOptions):
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 lets other machines in; then give the name they use as --name."""
    port: int = 8000
    """Port; 0: any free one."""
    name: tuple[str, ...] = ()
    """Host names under which the page answers, besides localhost and --host."""
    index: bool = False
    """Make the index of training images, then end. The page makes it on demand, too."""
    index_images: int = 1000
    """How many training images an index holds that is made now."""


def check(args: Args) -> None:
    """Raises InputError on wrong arguments."""
    require_range("port", args.port, 0, 65535)
    require_range("index_images", args.index_images, 1)
    if args.host == "0.0.0.0" and not args.name:
        raise InputError(f"--host {args.host}: needs --name, the host name or address that visitors type")


if __name__ == "__main__":
    ARGS = parse_arguments(Args, __doc__, check)  # before the imports below, which take seconds

from runtime.device import pick_device
from runtime.images import image_files
from runtime.status import Progress, say
from training.trained_run import EXAMPLES, load_run


def main(args: Args) -> None:
    from explorer.index import IndexMaker
    from explorer.server import listen, make_app, serve
    from explorer.visitors import Visitors

    check(args)
    listener = None if args.index else listen(args.host, args.port)
    run = load_run(args, pick_device(args.device))
    visitors = Visitors(run)
    index = IndexMaker(run, visitors.chain, args.index_images)
    if args.index:
        with Progress("index", index.state()["images"]) as progress:
            for done in index.make():
                progress.update(done - progress.done)
        say(f"written: {index.path}")
        return
    app = make_app(visitors, index, image_files(EXAMPLES), [args.host, *args.name])
    host, port = listener.getsockname()[:2]
    shown = args.name[0] if args.name else host
    print(f"open http://{shown}:{port} in a browser; Ctrl-C ends", flush=True)
    serve(app, listener)


if __name__ == "__main__":
    run_script(main, ARGS)
