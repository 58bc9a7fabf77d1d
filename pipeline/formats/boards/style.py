"""How a downtime board looks: on a screen by day and night, on a phone, and on A4 in black and white."""

from typing import Final

STYLE: Final = """
:root{--ink:#111;--dim:#444;--page:#fff;--line:#8a8f98;--soft:#f0f2f5;--warn:#9b1c00;--old:#ffd9cc;--fresh:#e3f2e6}
@media (prefers-color-scheme:dark){:root{--ink:#f2f2f2;--dim:#c3c7cd;--page:#15181c;--line:#6a7280;--soft:#23282f;--warn:#ff9d80;
--old:#5a1f10;--fresh:#183a22}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:84rem;padding:.8rem;font:15px/1.35 system-ui,"Liberation Sans",Arial,sans-serif;color:var(--ink);
background:var(--page)}
p{margin:0}h1{margin:0;font-size:2rem;line-height:1.1;overflow-wrap:anywhere}h2{margin:1rem 0 .3rem;font-size:1.05rem}
header{display:flex;flex-wrap:wrap;gap:.4rem 1.6rem;align-items:center;padding:.6rem .8rem;border:2px solid var(--line);
border-radius:.4rem}
header.old{border-color:var(--warn);background:var(--old)}header.fresh{background:var(--fresh)}
.asof{text-align:center}.clock{font-size:2.4rem;font-weight:700;line-height:1;font-variant-numeric:tabular-nums}
.age{flex:1 1 20rem}.age .old,.age .fresh{font-weight:700}.age .old{color:var(--warn)}
header.old .age .old{color:var(--ink)}
.counts{display:flex;flex-wrap:wrap;gap:.3rem;margin:.7rem 0 0}
.counts div{flex:1 1 6rem;border:1px solid var(--line);border-radius:.3rem;padding:.2rem .5rem;background:var(--soft)}
dt{font-size:.75rem;color:var(--dim)}dd{margin:0;font-size:1.3rem;font-weight:700;font-variant-numeric:tabular-nums}
section{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{border:1px solid var(--line);padding:.2rem .4rem;text-align:left;vertical-align:top;overflow-wrap:break-word}
thead th{background:var(--soft);font-size:.78rem}
small{display:block;font-size:.82rem;color:var(--dim)}
.state,.n{white-space:nowrap}.state small{white-space:normal}.warn{color:var(--warn);font-weight:700}.none{color:var(--dim)}
.s-ready b,.s-blocked b,.s-closed b,.s-contaminated b{border-bottom:2px solid currentColor}
.hand{min-width:5rem}.paper td{height:1.9rem}
footer{margin-top:.8rem;font-size:.8rem;color:var(--dim)}
@media (max-width:40rem){body{font-size:14px;padding:.4rem}h1{font-size:1.5rem}.hand{display:none}
thead th:last-child{display:none}.paper{display:none}}
@page{size:A4 landscape;margin:9mm}
@media print{:root{--ink:#000;--dim:#222;--page:#fff;--line:#444;--soft:#fff;--warn:#000;--old:#fff;--fresh:#fff}
body{font-size:9.5pt;padding:0;max-width:none}header.old{border-width:4px}tr,.counts div{break-inside:avoid}
thead{display:table-header-group}h2{break-after:avoid}section{overflow:visible}.paper{break-inside:avoid}
footer{margin-top:3mm}}
""".replace("\n", "")
