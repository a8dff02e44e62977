package config
import ("testing";"os";"fmt";"time")
func TestScratch(t *testing.T){
 d:=t.TempDir()
 os.WriteFile(d+"/usher.yaml", []byte(`engine:
  slots: "32"
  windw: 5
  drain: 30
  maxBody: 1MB
types:
  order.rush: {plugin: shp, prioirty: 9, timeout: 5s}
  order.placed: {plugin: shop, attempts: 3}
  "bad name": {}
  x:
  y: {plugin: shop, timeout: 5s, timeout: 6s}
plugins:
  shop: {command: [usher, plugin], sha256: abc, files: {a: b}}
  other: {command: usher}
broker:
  passcode: hunter2
  urls: [stomp://a:b@c]
  queue: 5
attempts: 3
`),0o600)
 os.Chdir(d)
 _,err:=Load(Options{Files:[]string{"usher.yaml"}, Environ: []string{"USHER__ENGINE__SLOT=3","USHER__TYPES__X__PLUGIN=a","USHER__BROKER__QUEUE=","USHER__BROKER__URLS=stomp://x:y@z,http://a"}, Flags: map[string]any{"server.listen":"x","log.levl":"a", "types.a.b":"3","engine.slots.a":3}})
 fmt.Println(err)
 for _,s:=range []string{"engine:\n  slots: 3\n window: 4\n", "engine:\n\tslots: 3\n","a: b: c\n","engine: {slots: 3\ntypes:\n  a: {plugin: b}\n", "log: {level: \"info}\ntypes: {}\n","engine\n  slots: 3\n","engine:\n  slots: 3\n   window: 3\n","types:\n- a\nb: c\n","a: *b\n","a: @b\n","a: \"\\q\"\n","---\na: 1\n---\nb: 2\n","- a\n","5","engine: |\n a\nb\n", "a: 'x\nb: 'y'\n", "a: [1,2\nb: 3\n", "plugins:\n  a:\n    command:\n    - x\n   - y\n", "a: &b {<<: *b}\n", "a:\x00b\n", "log: {level: \xff}\n","engine: &a {<<: [*a, *a, *a]}\n","? [a]\n: b\n", "%YAML 1.2\n---\nengine: {}\n","%FOO\nengine: {}\n","engine:\n  slots: 3 x\n  window 3\n", "key: - a\n","engine: {slots: !!int 3}\n"} {
  os.WriteFile("b.yaml",[]byte(s),0o600)
  t0:=time.Now()
  _,err=Load(Options{Files:[]string{"b.yaml"}})
  fmt.Printf("------ %q %v\n%v\n",s,time.Since(t0),err)
 }
 cfg,err:=Load(Options{Files:[]string{"/work/main/deploy/samples/activemq.yaml"},Environ:[]string{"USHER__ENGINE__MAX_BODY=256KiB"}})
 fmt.Println(err); if err==nil { b,_:=Annotate(cfg); fmt.Println(string(b)); fmt.Println(Errors(cfg.Warnings).Format(false)) }
 fmt.Println(Explain("types.x.y.timeout")); fmt.Println(Explain("types.x.y.timout"));fmt.Println(Explain("types"));fmt.Println(Explain("attempts"))
}
