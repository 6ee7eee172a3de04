"""The real IDLE, which runs a script by F5 and stops it by Ctrl+C; its shell's text goes to stdout.

    $ xvfb-run -a python3 -m support.idle_shell 6 server.py --port 0

The number is the seconds after which Ctrl+C is pressed.
"""

import os
import sys
import tkinter
import types
from idlelib import pyshell, runscript


def begin(editors, seconds, script, arguments):
    runscript.CustomRun = lambda *_, **__: types.SimpleNamespace(result=(arguments, True))
    if not editors.pyshell:
        editors.open_shell()
    shell = editors.pyshell

    def end():
        print(shell.text.get("1.0", "end-1c"), flush=True)
        shell.interp.kill_subprocess()
        os._exit(0)

    run = runscript.ScriptBinding(editors.open(script)).run_module_event
    editors.root.after(500, lambda: run(None, customize=True))
    editors.root.after(1000 * seconds, shell.interp.interrupt_subprocess)
    editors.root.after(1000 * seconds + 2500, end)


def main(seconds, script, *arguments):
    mainloop = tkinter.Misc.mainloop

    def begin_and_loop(widget, n=0):
        if pyshell.flist:
            begin(pyshell.flist, int(seconds), script, list(arguments))
        return mainloop(widget, n)

    tkinter.Misc.mainloop = begin_and_loop
    sys.argv = ["idle"]
    pyshell.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
