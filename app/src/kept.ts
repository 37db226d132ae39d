// The last things used, up to a number of them.

export class Kept<T> {
  private readonly map = new Map<number, T>();
  constructor(private readonly most: number, private readonly drop: (value: T) => void = () => undefined) {}
  get(key: number): T | undefined {
    const value = this.map.get(key);
    if (value !== undefined) {
      this.map.delete(key);
      this.map.set(key, value);
    }
    return value;
  }
  has = (key: number) => this.map.has(key);
  set(key: number, value: T): void {
    this.delete(key);
    this.map.set(key, value);
    while (this.map.size > this.most) this.delete(this.map.keys().next().value!);
  }
  delete(key: number): void {
    const old = this.map.get(key);
    if (old !== undefined && this.map.delete(key)) this.drop(old);
  }
  clear(): void {
    for (const key of [...this.map.keys()]) this.delete(key);
  }
}
