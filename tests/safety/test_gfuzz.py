import json, os, traceback, time
from collections import Counter
import pytest
from hypothesis import given, settings, HealthCheck, Phase
from tests.safety.test_fuzz import arena, live, names, requires
from tests.safety.documents import *
from tests.support import leaks
pytestmark=[requires("root","cgroup2","busybox"), pytest.mark.timeout(7200)]
N=int(os.environ.get("N","300"))
FOUND={}
S=settings(max_examples=N,deadline=None,suppress_health_check=list(HealthCheck),phases=(Phase.generate,),database=None)
SLOWEST=[]
@pytest.mark.parametrize("which",["one","many"])
def test_all(oci, arena, which):
    stats=Counter()
    @S
    @given(documents(4) if which=="many" else mutations())
    def inner(x):
        if which=="one":
            place,value=x
            d=skeleton(); put(d,place,value); d=keep_the_node(d); muts=[x]
        else:
            d,muts=x
        (arena.directory/"config.json").write_text(json.dumps(d))
        t=time.monotonic()
        try:
            m=live(oci,arena)
            stats["refused" if m else "ran"]+=1
            if which=="one" and m and not names(place,value,m):
                key=("UNNAMED",place,m[:60])
                FOUND.setdefault(key,(x,m))
        except BaseException as e:
            if isinstance(e,KeyboardInterrupt): raise
            text="".join(traceback.format_exception(e))[-1500:]
            key=("FAIL",type(e).__name__,str(e)[:100])
            FOUND.setdefault(key,(muts,text))
            stats["FAIL"]+=1
            for n in oci.names():
                oci.call("delete","--force",n)
        SLOWEST.append((time.monotonic()-t, muts))
    inner()
    with open(f"/tmp/gfuzz_{which}.txt","w") as f:
        print(stats,file=f)
        for k,v in FOUND.items():
            print("=====",k,file=f); print(str(v[0])[:1500],file=f); print(v[1],file=f)
        for t,m in sorted(SLOWEST,key=lambda x:-x[0])[:5]: print("SLOW",t,str(m)[:300],file=f)
    FOUND.clear(); SLOWEST.clear()
