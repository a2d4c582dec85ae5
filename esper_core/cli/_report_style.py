"""The style sheet of a report: light, dark and print."""

from __future__ import annotations

from typing import Final

__all__ = ["STYLE"]

STYLE: Final = """
:root{color-scheme:light dark;--page:#fff;--text:#1b1f24;--quiet:#57606a;--line:#d0d7de;--curve:#0550ae;--ok:#116329;
--warn:#7a4a00;--crit:#a40e26;--info:#0550ae;--h0:#eef4fb;--h1:#c6dbef;--h2:#9ecae1;--h3:#4292c6;--h4:#a63603;--h5:#5c1a00}
@media (prefers-color-scheme:dark){:root{--page:#10151b;--text:#e6edf3;--quiet:#9da7b3;--line:#3d444d;--curve:#79c0ff;
--ok:#7ee787;--warn:#e3b341;--crit:#ff9b95;--info:#79c0ff;--h0:#1a2430;--h1:#1f3d5c;--h2:#2b5f8f;--h3:#4d93cf;
--h4:#f0883e;--h5:#ffd8a8}}
@media print{:root{color-scheme:light;--page:#fff;--text:#000;--quiet:#333;--line:#888;--curve:#0550ae;--ok:#116329;
--warn:#7a4a00;--crit:#a40e26;--info:#0550ae;--h0:#eef4fb;--h1:#c6dbef;--h2:#9ecae1;--h3:#4292c6;--h4:#a63603;--h5:#5c1a00}}
*{box-sizing:border-box}body{margin:0 auto;padding:1rem;max-width:56rem;background:var(--page);color:var(--text);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}h1{font-size:1.6rem}h2{font-size:1.3rem;margin-top:2.5rem;
border-top:1px solid var(--line);padding-top:1rem}h3{font-size:1.05rem}a{color:var(--info)}
.skip{position:absolute;left:-99rem}.skip:focus{position:static}:focus-visible{outline:3px solid var(--info);
outline-offset:2px}.quiet,figcaption,caption{color:var(--quiet)}caption{text-align:left;padding:.3rem 0}
.verdict{border-left:.4rem solid currentColor;padding:.4rem .8rem;margin:.8rem 0}.verdict strong{font-size:1.2rem}
.verdict span{color:var(--text)}.ok{color:var(--ok)}.warn,.stop-tone{color:var(--warn)}.crit,.bad{color:var(--crit)}
.info{color:var(--info)}.stale{color:var(--warn)}.dim{color:var(--quiet)}
.scroll{overflow-x:auto}table{border-collapse:collapse;min-width:50%}th,td{padding:.2rem .7rem .2rem 0;text-align:left;
vertical-align:top;border-bottom:1px solid var(--line);font-weight:normal}thead th{font-weight:600}
.numbers td,.numbers thead th:not(:first-child){text-align:right;font-variant-numeric:tabular-nums}
th,td{overflow-wrap:normal}table:not(.numbers) td:last-child{overflow-wrap:anywhere;min-width:12rem}
tbody th{white-space:nowrap}figure{margin:.8rem 0;overflow-x:auto}
svg{width:100%;min-width:34rem;height:auto;display:block}summary{cursor:pointer}
.label{font:12px system-ui,sans-serif;fill:var(--quiet)}.grid{stroke:var(--line)}.curve{fill:none;stroke:var(--curve);
stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}.limit{stroke-width:1.4}.l0{stroke:var(--warn);
stroke-dasharray:6 4}.l1{stroke:var(--crit)}.l2{stroke:var(--quiet);stroke-dasharray:2 3}.stop{fill:var(--warn)}
.beyond{fill:var(--crit)}.broken{fill:none;stroke:var(--crit);stroke-width:2}.none{fill:none;stroke:var(--line);
stroke-width:.3}.h0{fill:var(--h0)}.h1{fill:var(--h1)}.h2{fill:var(--h2)}.h3{fill:var(--h3)}.h4{fill:var(--h4)}
.h5{fill:var(--h5)}.broken-cell{fill:var(--page);stroke:var(--crit);stroke-dasharray:2 2}
@media print{figure,tr,.verdict{break-inside:avoid}h2,h3,caption{break-after:avoid}
.skip,nav,details:not([open]){display:none}body{font-size:11pt;max-width:none;padding:0}.scroll,figure{overflow:visible}
tbody th{white-space:normal}svg{min-width:0}rect,.verdict{print-color-adjust:exact}}
"""
